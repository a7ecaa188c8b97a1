"""What producers do wrong: each row of the table in docs/wire.md as records around a good stream.

A case takes the good stream's id and records, and gives what is put on the topic: key, value, and the reason why it is
rejected (None: it is not). The good stream must be heard as if nothing else had come.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgpack
import numpy as np

from tests.integration.sending import audio, start
from wire import Audio, End, Flush, Options, Record, Start, encode_record

Sent = tuple[str | bytes | None, Record | bytes | None, str | None]
Case = Callable[[str, list[Record]], list[Sent]]
FLOAT = "not_finite"  # the case whose good stream is of floats

STARTED = encode_record(start(16000))
PIECE = encode_record(Audio(0, 0, bytes(3200), "one"))
TEN_MB = 10_000_000
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def changed(record: bytes, **fields: object) -> bytes:
    return bytes(msgpack.packb(msgpack.unpackb(record) | fields))


def without(record: bytes, field: str) -> bytes:
    found = msgpack.unpackb(record)
    del found[field]
    return bytes(msgpack.packb(found))


def among(stream: str, good: Sequence[Record], bad: Sequence[Sent]) -> list[Sent]:
    """The good stream with something between its records."""
    middle = len(good) // 3
    return [*clean(stream, good[:middle]), *bad, *clean(stream, good[middle:])]


def clean(stream: str, records: Sequence[Record]) -> list[Sent]:
    return [(stream, record, None) for record in records]


def refused(reason: str, *values: Record | bytes | None) -> Case:
    """These values under the good stream's key, all rejected for this reason."""
    return lambda stream, good: among(stream, good, [(stream, value, reason) for value in values])


def refused_elsewhere(reason: str, *values: Record | bytes) -> Case:
    """These under ids that no stream has."""
    return lambda stream, good: among(
        stream, good, [(f"{stream}-{index}", value, reason) for index, value in enumerate(values)]
    )


def refused_keys(reason: str, *keys: bytes | None) -> Case:
    return lambda stream, good: among(stream, good, [(key, PIECE, reason) for key in keys])


_RANDOM = np.random.default_rng(4)
CASES |= {
    "random_bytes": refused("malformed", bytes(range(256)), *(_RANDOM.bytes(2**size) for size in range(20))),
    "cut_short": refused("malformed", PIECE[:-1], PIECE + b"\xc0"),
    "empty_value": refused("malformed", b""),
    "nested_10000_deep": refused(
        "malformed", b"\x81\xa1x" * 10_000 + b"\xc0", b"\x91" * 10_000, PIECE[:1] + b"\xa1x" + b"\x91" * 10_000
    ),
    "null_value": refused("no_value", None),
    "wrong_version": refused(
        "unknown_version", changed(PIECE, v=2), changed(PIECE, v="1"), changed(PIECE, v=True), without(PIECE, "v")
    ),
    "unknown_type": refused(
        "unknown_type", changed(PIECE, type="audi"), changed(PIECE, type=5), without(PIECE, "type")
    ),
    "missing_field": refused(
        "missing_field", without(PIECE, "position"), without(PIECE, "payload"), without(STARTED, "nonce")
    ),
    "wrong_types": refused(
        "wrong_type",
        changed(PIECE, position=1.0),
        changed(PIECE, sequence=True),
        changed(PIECE, sequence=None),
        changed(PIECE, payload="text"),
        changed(PIECE, payload=[0, 0]),
        changed(PIECE, nonce=5),
    ),
    "out_of_range": refused(
        "out_of_range",
        changed(PIECE, position=-1),
        changed(PIECE, sequence=2**64 - 1),
        changed(encode_record(Flush("f")), id="f" * 129),
    ),
    "no_key": refused_keys("no_key", None, b""),
    "key_not_utf8": refused_keys("key_not_utf8", b"\xff\xfe", "ä".encode("latin-1")),
    "key_too_long": refused_keys("key_too_long", b"k" * 257),
    "unknown_encoding": refused_elsewhere(
        "unknown_encoding", *(changed(STARTED, encoding=e) for e in ("opus", "", "PCM_S16LE", "pcm_s16be"))
    ),
    "unknown_word": refused_elsewhere("unknown_value", changed(STARTED, options={"decoder": "beam"})),
    "sample_rates": refused_elsewhere(
        "unknown_sample_rate",
        *(changed(STARTED, sample_rate=rate) for rate in (1, 100, 7_999, 8_001, 48_001, 192_000, 10**6, 10**9)),
    ),
    "empty_payload": refused("payload_empty", changed(PIECE, payload=b"")),
    "payload_too_large": refused(
        "payload_too_large", changed(PIECE, payload=bytes(2**20 + 2)), changed(PIECE, x=bytes(2**20 + 2**16))
    ),
    "payload_10_mb": refused("payload_too_large", changed(PIECE, payload=bytes(TEN_MB))),
    "odd_bytes": refused("payload_alignment", Audio(9_999, 0, bytes(1), "one"), Audio(9_999, 0, bytes(3201), "one")),
    FLOAT: refused(
        "payload_not_finite",
        *(Audio(9_999, 0, np.array([0.1, bad, 0.1], "<f4").tobytes(), "one") for bad in (np.nan, np.inf, -np.inf)),
    ),
    "position_far_ahead": refused(
        "position_out_of_range", Audio(9_999, 10**12, bytes(2), "one"), Audio(9_999, 2**63 - 1, bytes(2), "one")
    ),
    "look_ahead": refused_elsewhere("look_ahead_not_supported", start(16000, options=Options(look_ahead=5))),
    "end_before_start": refused_elsewhere("not_started", End("one"), Flush("f"), End()),
    "audio_before_start": refused_elsewhere("not_started", PIECE),
    "second_producer": refused(
        "foreign_nonce", Audio(3, 4800, bytes(3200), "another"), Flush("f", "another"), End("another")
    ),
}


@case
def audio_after_end(stream: str, good: list[Record]) -> list[Sent]:
    late: list[Record] = [Audio(0, 0, bytes(3200)), Audio(1, 0, bytes(3200), "one"), Flush("f", "one")]
    return [*clean(stream, good), *((stream, replaced, "after_end") for replaced in _beyond(good, late))]


def _beyond(good: list[Record], late: list[Record]) -> list[Record]:
    """Audio behind the end of the good stream."""
    position = good[-1].position if isinstance(good[-1], End) else None
    assert position
    return [replace(record, position=position) for record in late if not isinstance(record, Start)]


@case
def sent_again_after_end(stream: str, good: list[Record]) -> list[Sent]:
    flushed = [*good[:-1], Flush("last", "one", good[-1].position), good[-1]]  # type: ignore[union-attr]
    return clean(stream, [*flushed, *flushed, *flushed[-5:]])


@case
def sequence_backwards(stream: str, good: list[Record]) -> list[Sent]:
    return clean(stream, _numbered(good, lambda sequence: 10_000 - sequence))


@case
def sequence_repeats(stream: str, good: list[Record]) -> list[Sent]:
    return clean(stream, _numbered(good, lambda sequence: sequence // 7))


@case
def sequence_jumps(stream: str, good: list[Record]) -> list[Sent]:
    return clean(stream, _numbered(good, lambda sequence: sequence + (10**12 if sequence % 40 == 20 else 0)))


def _numbered(good: list[Record], sequence: Callable[[int], int]) -> list[Record]:
    return [replace(r, sequence=sequence(r.sequence)) if isinstance(r, Audio) else r for r in good]


@case
def positions_overlap(stream: str, good: list[Record]) -> list[Sent]:
    """Each record begins with the last 50 ms of the one before."""
    made: list[Record] = []
    before = b""
    for record in good:
        if isinstance(record, Audio):
            repeated = before[-1600:]
            made.append(
                replace(record, position=record.position - len(repeated) // 2, payload=repeated + record.payload)
            )
            before = record.payload
        else:
            made.append(record)
    return clean(stream, made)


@case
def second_start_same_nonce(stream: str, good: list[Record]) -> list[Sent]:
    return among(stream, good, clean(stream, [good[0], good[0]]))


@case
def second_start_new_nonce(stream: str, good: list[Record]) -> list[Sent]:
    """What is heard of the id in the end is the stream of the later start."""
    noise = np.random.default_rng(1).integers(-9000, 9000, 16_000).astype(np.int16)
    return clean(stream, [start(16000, nonce="old"), *audio(noise, 16000, nonce="old"), *good])


@case
def two_producers(stream: str, good: list[Record]) -> list[Sent]:
    """Both say their start; from the second's on, the first's records are rejected."""
    noise = np.random.default_rng(2).integers(-9000, 9000, 64_000).astype(np.int16)
    other = audio(noise, 16000, nonce="old")
    mixed: list[Sent] = clean(stream, [start(16000, nonce="old"), *other[:10]])
    for index, record in enumerate(good):
        mixed.append((stream, record, None))
        mixed += [(stream, late, "foreign_nonce") for late in other[10 + index : 11 + index]]
    return mixed
