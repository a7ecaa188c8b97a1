"""What is refused, with which reason, naming which field; and what is deliberately let through."""

import copy
import hashlib
import math
import pickle
from dataclasses import replace

import msgpack
import pytest

from tests.wire import examples
from wire import MAX_PAYLOAD_BYTES, Audio, Flush, Start, WireError, codec

START = examples.RECORDS["start"][1]
AUDIO = examples.RECORDS["audio"][1]
FLUSH = examples.RECORDS["flush"][1]
END = examples.RECORDS["end"][1]
UTTERANCE = examples.FINALS["utterance"][1]
GAP = examples.FINALS["gap"][1]
PARTIAL = examples.PARTIALS["partial"][1]
REJECTED = examples.REJECTED["rejected"][1]
WORD = UTTERANCE["words"][0]


def without(plain, *names):
    return {key: value for key, value in plain.items() if key not in names}


def refusal(decode, data) -> WireError:
    with pytest.raises(WireError) as caught:
        decode(data)
    return caught.value


@pytest.mark.parametrize(
    ("plain", "reason", "field"),
    [
        (without(START, "v"), "unknown_version", "v"),
        (START | {"v": 2}, "unknown_version", "v"),
        (START | {"v": 0}, "unknown_version", "v"),
        (START | {"v": True}, "unknown_version", "v"),
        (START | {"v": 1.0}, "unknown_version", "v"),
        (START | {"v": "1"}, "unknown_version", "v"),
        (without(START, "type"), "unknown_type", "type"),
        (START | {"type": "stop"}, "unknown_type", "type"),
        (START | {"type": "utterance"}, "unknown_type", "type"),
        (START | {"type": None}, "unknown_type", "type"),
        (START | {"type": ["start"]}, "unknown_type", "type"),
        (without(START, "nonce"), "missing_field", "nonce"),
        (without(START, "encoding"), "missing_field", "encoding"),
        (without(START, "sample_rate"), "missing_field", "sample_rate"),
        (without(AUDIO, "sequence"), "missing_field", "sequence"),
        (without(AUDIO, "position"), "missing_field", "position"),
        (without(AUDIO, "payload"), "missing_field", "payload"),
        (without(FLUSH, "id"), "missing_field", "id"),
        (START | {"nonce": None}, "wrong_type", "nonce"),
        (START | {"nonce": b"b7e1"}, "wrong_type", "nonce"),
        (START | {"nonce": ""}, "out_of_range", "nonce"),
        (START | {"nonce": "ü" * 33}, "out_of_range", "nonce"),
        (START | {"encoding": "opus"}, "unknown_encoding", "encoding"),
        (START | {"encoding": 1}, "wrong_type", "encoding"),
        (START | {"sample_rate": 1}, "unknown_sample_rate", "sample_rate"),
        (START | {"sample_rate": 10**9}, "unknown_sample_rate", "sample_rate"),
        (START | {"sample_rate": 8000.0}, "wrong_type", "sample_rate"),
        (START | {"sample_rate": "8000"}, "wrong_type", "sample_rate"),
        (START | {"language": ""}, "out_of_range", "language"),
        (START | {"call_id": "x" * 257}, "out_of_range", "call_id"),
        (START | {"channel": 0}, "wrong_type", "channel"),
        (START | {"metadata": []}, "wrong_type", "metadata"),
        (START | {"metadata": {str(i): i for i in range(65)}}, "out_of_range", "metadata"),
        (START | {"metadata": {"": 1}}, "out_of_range", "metadata['']"),
        (START | {"metadata": {"k" * 129: 1}}, "out_of_range", f"metadata[{'k' * 40!r}... (129 characters)]"),
        (START | {"metadata": {b"k": 1}}, "wrong_type", "metadata[1 bytes]"),
        (START | {"metadata": {"k": "x" * 1025}}, "out_of_range", "metadata['k']"),
        (START | {"metadata": {"k": 2**63}}, "out_of_range", "metadata['k']"),
        (START | {"metadata": {"k": math.nan}}, "out_of_range", "metadata['k']"),
        (START | {"metadata": {"k": -math.inf}}, "out_of_range", "metadata['k']"),
        (START | {"metadata": {"k": b"x"}}, "wrong_type", "metadata['k']"),
        (START | {"metadata": {"k": {}}}, "wrong_type", "metadata['k']"),
        (START | {"options": 1}, "wrong_type", "options"),
        (START | {"options": {"look_ahead": -1}}, "out_of_range", "options.look_ahead"),
        (START | {"options": {"look_ahead": True}}, "wrong_type", "options.look_ahead"),
        (START | {"options": {"endpoint_ms": 800.0}}, "wrong_type", "options.endpoint_ms"),
        (START | {"options": {"decoder": "beam"}}, "unknown_value", "options.decoder"),
        (START | {"options": {"partials": 1}}, "wrong_type", "options.partials"),
        (AUDIO | {"sequence": -1}, "out_of_range", "sequence"),
        (AUDIO | {"sequence": 2**63}, "out_of_range", "sequence"),
        (AUDIO | {"sequence": True}, "wrong_type", "sequence"),
        (AUDIO | {"sequence": None}, "wrong_type", "sequence"),
        (AUDIO | {"position": -1}, "out_of_range", "position"),
        (AUDIO | {"position": 2**64 - 1}, "out_of_range", "position"),
        (AUDIO | {"position": 0.0}, "wrong_type", "position"),
        (AUDIO | {"payload": "text"}, "wrong_type", "payload"),
        (AUDIO | {"payload": [0, 1]}, "wrong_type", "payload"),
        (AUDIO | {"payload": b""}, "payload_empty", "payload"),
        (AUDIO | {"payload": bytes(MAX_PAYLOAD_BYTES + 1)}, "payload_too_large", "payload"),
        (AUDIO | {"payload": bytes(10 * 2**20)}, "payload_too_large", None),
        (AUDIO | {"nonce": ""}, "out_of_range", "nonce"),
        (AUDIO | {"nonce": "n" * 65}, "out_of_range", "nonce"),
        (AUDIO | {"nonce": "ü" * 33}, "out_of_range", "nonce"),
        (AUDIO | {"nonce": 7}, "wrong_type", "nonce"),
        (FLUSH | {"id": ""}, "out_of_range", "id"),
        (FLUSH | {"id": "x" * 129}, "out_of_range", "id"),
        (FLUSH | {"position": "9"}, "wrong_type", "position"),
        (END | {"position": -1}, "out_of_range", "position"),
    ],
)
def test_a_bad_record_is_refused_by_reason_and_field(plain, reason, field):
    error = refusal(codec.decode_record, msgpack.packb(plain))
    assert (error.reason, error.field) == (reason, field)
    assert field is None or field in str(error)


@pytest.mark.parametrize(
    ("decode", "plain", "reason", "field"),
    [
        (codec.decode_final, UTTERANCE | {"v": 2}, "unknown_version", "v"),
        (codec.decode_final, UTTERANCE | {"type": "start"}, "unknown_type", "type"),
        (codec.decode_final, without(UTTERANCE, "id"), "missing_field", "id"),
        (codec.decode_final, UTTERANCE | {"stream": "s" * 257}, "out_of_range", "stream"),
        (codec.decode_final, UTTERANCE | {"offsets": [1]}, "wrong_type", "offsets"),
        (codec.decode_final, UTTERANCE | {"offsets": [1, "2"]}, "wrong_type", "offsets[1]"),
        (codec.decode_final, UTTERANCE | {"offsets": [2, 1]}, "out_of_range", "offsets"),
        (codec.decode_final, UTTERANCE | {"reason": "bored"}, "unknown_value", "reason"),
        (codec.decode_final, UTTERANCE | {"words": {}}, "wrong_type", "words"),
        (codec.decode_final, UTTERANCE | {"words": [WORD, 1]}, "wrong_type", "words[1]"),
        (codec.decode_final, UTTERANCE | {"words": [without(WORD, "end")]}, "missing_field", "words[0].end"),
        (codec.decode_final, UTTERANCE | {"words": [WORD | {"end": 1}]}, "out_of_range", "words[0].end"),
        (
            codec.decode_final,
            UTTERANCE | {"words": [WORD | {"confidence": 1.5}]},
            "out_of_range",
            "words[0].confidence",
        ),
        (
            codec.decode_final,
            UTTERANCE | {"words": [WORD | {"confidence": math.nan}]},
            "out_of_range",
            "words[0].confidence",
        ),
        (
            codec.decode_final,
            UTTERANCE | {"words": [WORD | {"confidence": True}]},
            "wrong_type",
            "words[0].confidence",
        ),
        (codec.decode_final, UTTERANCE | {"end": 0}, "out_of_range", "end"),
        (codec.decode_final, GAP | {"end": 0}, "out_of_range", "end"),
        (codec.decode_partial, PARTIAL | {"stable": "other"}, "out_of_range", "stable"),
        (codec.decode_partial, UTTERANCE, "unknown_type", "type"),
        (codec.decode_rejected, REJECTED | {"sha256": b"short"}, "out_of_range", "sha256"),
        (codec.decode_rejected, REJECTED | {"data": bytes(65537)}, "out_of_range", "data"),
    ],
)
def test_a_bad_event_is_refused_by_reason_and_field(decode, plain, reason, field):
    error = refusal(decode, msgpack.packb(plain))
    assert (error.reason, error.field) == (reason, field)
    assert field in str(error)


@pytest.mark.parametrize("name", examples.RECORDS)
def test_unknown_fields_are_ignored(name):
    expected, plain = examples.RECORDS[name]
    strange = {"x": [1, {"y": b"z"}], "when": msgpack.Timestamp(1, 2), "ext": msgpack.ExtType(5, b"..")}
    assert codec.decode_record(msgpack.packb(strange | plain)) == expected


def test_nil_in_an_optional_field_counts_as_absent():
    data = msgpack.packb(AUDIO | {"nonce": None})
    assert codec.decode_record(data) == replace(examples.RECORDS["audio"][0], nonce=None)
    data = msgpack.packb(START | {"options": None, "metadata": None})
    assert codec.decode_record(data) == replace(
        examples.RECORDS["start"][0], options=type(examples.RECORDS["start"][0].options)(), metadata={}
    )


def test_limits_themselves_are_allowed():
    for plain in (
        AUDIO | {"payload": bytes(MAX_PAYLOAD_BYTES), "nonce": "ü" * 32, "sequence": 2**63 - 1},
        START | {"metadata": {f"{i:0128}": "x" * 1024 for i in range(64)}},
        START | {"metadata": {"low": -(2**63), "high": 2**63 - 1}},
        FLUSH | {"id": "x" * 128},
    ):
        assert codec.decode_record(msgpack.packb(plain)) is not None
    assert codec.decode_key(b"k" * 256) == "k" * 256


def test_a_whole_number_is_a_confidence():
    data = msgpack.packb(UTTERANCE | {"words": [WORD | {"confidence": 1}]})
    confidence = codec.decode_final(data).words[0].confidence
    assert confidence == 1.0
    assert type(confidence) is float


@pytest.mark.parametrize(
    ("record", "reason", "field"),
    [
        (Start(nonce=""), "out_of_range", "nonce"),
        (Start(nonce="\ud800"), "wrong_type", "nonce"),
        (Start(nonce="n", sample_rate=8001), "unknown_sample_rate", "sample_rate"),
        (Audio(0, 0, b""), "payload_empty", "payload"),
        (Audio(0, 0, bytearray(b"ab")), "wrong_type", "payload"),
        (Audio(0, 0, bytes(MAX_PAYLOAD_BYTES + 1)), "payload_too_large", "payload"),
        (Audio(-1, 0, b"a"), "out_of_range", "sequence"),
        (Audio(2**100, 0, b"a"), "out_of_range", "sequence"),
        (Audio(10**5000, 0, b"a"), "out_of_range", "sequence"),
        (Flush("f", position=1.5), "wrong_type", "position"),
        ({"type": "audio"}, "unknown_type", "type"),
    ],
)
def test_a_bad_record_is_refused_at_its_author(record, reason, field):
    error = refusal(codec.encode_record, record)
    assert (error.reason, error.field) == (reason, field)


def test_the_error_says_what_was_found_and_what_is_allowed():
    error = refusal(codec.decode_record, msgpack.packb(START | {"encoding": "opus"}))
    assert str(error) == "encoding is 'opus'; it must be one of pcm_s16le, pcm_f32le, mulaw, alaw"
    error = refusal(codec.decode_record, msgpack.packb(AUDIO | {"sequence": "x" * 10**6}))
    assert str(error) == f"sequence is {'x' * 40!r}... (1000000 characters); it must be an integer"


def test_the_error_can_be_copied_and_pickled():
    error = refusal(codec.decode_record, None)
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (twin.reason, twin.field, str(twin)) == (error.reason, error.field, str(error))


def test_an_error_without_a_documented_reason_cannot_be_made():
    with pytest.raises(KeyError):
        WireError("because", "no")
    with pytest.raises(KeyError):
        codec.reject(b"", "because", "no")


def test_reject_keeps_the_first_64_kib_and_the_digest_of_all():
    data = bytes(range(256)) * 300
    event = codec.reject(data, "malformed", "ü" * 2000)
    assert event.data == data[:65536]
    assert event.size == len(data) == 76800
    assert event.sha256 == hashlib.sha256(data).digest()
    assert event.detail == "ü" * 512
    assert codec.reject(None, "no_value", "null").size == 0


def test_a_rejected_reason_of_a_newer_release_can_be_read():
    assert codec.decode_rejected(msgpack.packb(REJECTED | {"reason": "from_tomorrow"})).reason == "from_tomorrow"
