"""Whatever comes: audio, or one record on the rejected topic; the streams beside it notice nothing."""

import hashlib
from itertools import zip_longest

import msgpack
import numpy as np
import pytest

from tests.integration.conftest import PREFIX, Round, Service
from tests.integration.sending import audio, spoken, start, stream_of
from tests.integration.support import without_confidence
from wire import Audio, End, Flush, Options, Start, encode_record

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PARTITION = 2
GOOD = "good"  # the stream that the bad records try to hurt
NAN = np.array([0.1, np.nan], "<f4").tobytes()


def deep(levels: int) -> bytes:
    return b"\x81\xa1x" * levels + b"\xc0"


def changed(record: bytes, **fields: object) -> bytes:
    return msgpack.packb(msgpack.unpackb(record) | fields)


def bad_key(reason: str) -> bool:
    return "key" in reason.split("_")


STARTED = encode_record(Start("one", sample_rate=16000))
PIECE = encode_record(Audio(0, 0, bytes(3200), "one"))
# reason, key, value
BAD: list[tuple[str, bytes | None, bytes | None]] = [
    ("malformed", GOOD.encode(), bytes(range(256))),
    ("malformed", GOOD.encode(), b""),
    ("malformed", GOOD.encode(), deep(10_000)),
    ("malformed", GOOD.encode(), PIECE[:-1]),
    ("malformed", GOOD.encode(), PIECE + b"\xc0"),
    ("no_value", GOOD.encode(), None),
    ("unknown_version", GOOD.encode(), changed(PIECE, v=2)),
    ("unknown_type", GOOD.encode(), changed(PIECE, type="audi")),
    ("wrong_type", GOOD.encode(), changed(PIECE, position=-1.5)),
    ("out_of_range", GOOD.encode(), changed(PIECE, position=-1)),
    ("payload_empty", GOOD.encode(), changed(PIECE, payload=b"")),
    ("payload_alignment", GOOD.encode(), encode_record(Audio(9_999, 0, bytes(3), "one"))),
    ("payload_too_large", GOOD.encode(), changed(PIECE, payload=bytes(1024 * 1024 + 2))),
    ("foreign_nonce", GOOD.encode(), encode_record(Audio(3, 4800, bytes(3200), "another"))),
    ("foreign_nonce", GOOD.encode(), encode_record(End("another"))),
    ("position_out_of_range", GOOD.encode(), encode_record(Audio(9_999, 2**62, bytes(2), "one"))),
    ("look_ahead_not_supported", b"bad-mode", encode_record(Start("x", options=Options(look_ahead=5)))),
    ("unknown_sample_rate", b"bad-rate", changed(STARTED, sample_rate=8001)),
    ("unknown_encoding", b"bad-encoding", changed(STARTED, encoding="opus")),
    ("not_started", b"bad-flush", encode_record(Flush("f"))),
    ("not_started", b"bad-nonce", PIECE),
    ("after_end", b"bad-ended", encode_record(Audio(0, 0, bytes(3200), "one"))),
    ("after_end", b"bad-ended", encode_record(Flush("f", "one"))),
    ("payload_not_finite", b"bad-nan", encode_record(Audio(0, 0, NAN, "one"))),
    ("no_key", None, PIECE),
    ("no_key", b"", PIECE),
    ("key_not_utf8", b"\xff\xfe", PIECE),
    ("key_too_long", b"k" * 257, PIECE),
]


def test_each_bad_record_is_rejected_once_and_hurts_nobody(service: Service, calls: Round) -> None:
    samples, rate = spoken("call-03", 0)
    sender = service.sender
    prepared = {
        "bad-ended": [start(16000), End("one")],
        "bad-nan": [start(16000, "pcm_f32le")],
    }
    for stream, records in prepared.items():
        sender.send(stream, records, PARTITION)
    good = stream_of(samples, rate)
    step = len(good) // len(BAD)
    expected: dict[int, tuple[str, bytes | None, bytes]] = {}
    pieces = [good[at : at + step] for at in range(0, len(good), step)]
    for piece, bad in zip_longest(pieces, BAD):
        sender.send(GOOD, piece or [], PARTITION)
        if bad is not None:
            ((_, offset),) = sender.send(bad[1], [bad[2]], PARTITION)
            expected[offset] = bad
    sender.send("bad-nan", [*audio(samples[:8000], 16000, "pcm_f32le"), End("one", 8000)], PARTITION)

    heard = service.outputs.heard(GOOD)
    twin = calls.heard[f"{PREFIX}call-03/0"]
    assert [without_confidence(u).words for u in heard.utterances] == [
        without_confidence(u).words for u in twin.utterances
    ]
    assert heard.end.gap_ms == 0
    # the stream that sent NaN goes on as if it had not
    assert service.outputs.heard("bad-nan").end.gap_ms == 0

    def found() -> dict[int, list]:
        outs: dict[int, list] = {offset: [] for offset in expected}
        for out in service.outputs.rejected:
            offset = int(out.headers["offset"])
            if out.partition == PARTITION and min(expected) <= offset:
                outs.setdefault(offset, []).append(out)
        return outs

    service.outputs.until(lambda: all(found().values()), "a rejected record for each bad one", 20)
    service.outputs.poll(0.5)
    outs = {offset: found()[offset] for offset in expected}
    assert {offset: len(outs[offset]) for offset in expected} == dict.fromkeys(expected, 1)
    assert {offset: outs[offset][0].event.reason for offset in expected} == {o: bad[0] for o, bad in expected.items()}
    for offset, (reason, key, value) in expected.items():
        (out,) = outs[offset]
        data = value or b""
        # an unusable key is not passed on
        assert out.key == (None if bad_key(reason) else key)
        assert out.headers == {"topic": service.topics.audio, "partition": str(PARTITION), "offset": str(offset)}
        assert (out.event.size, out.event.data) == (len(data), data[: 64 * 1024])
        assert out.event.sha256 == hashlib.sha256(data).digest()
        assert out.event.detail
    assert service.worker.metric("trunkline_records_rejected_total") >= len(BAD)
