"""Values and keys that are no record at all: refused cheaply, whatever they announce."""

import subprocess
import sys
import tracemalloc

import msgpack
import pytest

from wire import MAX_RECORD_BYTES, WireError, codec

END = {"v": 1, "type": "end"}


def refusal(decode, data) -> WireError:
    with pytest.raises(WireError) as caught:
        decode(data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no_value"),
        (b"", "malformed"),
        (b"\xc1", "malformed"),
        (b"RIFF$\x00\x00\x00WAVE", "malformed"),
        (b'{"v":1,"type":"end"}', "malformed"),
        (msgpack.packb([1, 2]), "malformed"),
        (msgpack.packb(END) + b"\x00", "malformed"),
        (msgpack.packb(END)[:-1], "malformed"),
        (b"\x81\xa1v" * 10_000 + b"\x01", "malformed"),
        (b"\x91" * 10_000 + b"\x01", "malformed"),
        (b"\xdd\xff\xff\xff\xff", "malformed"),
        (b"\xdf\xff\xff\xff\xff", "malformed"),
        (msgpack.packb({1: 2}), "malformed"),
        (b"\x82\xa1v\x01\xa4type\xa3\xff\xfe\xfd", "malformed"),
        (msgpack.packb(END | {"x": [0] * 1025}), "malformed"),
        (msgpack.packb(msgpack.Timestamp(0)), "malformed"),
        (bytes(MAX_RECORD_BYTES + 1), "payload_too_large"),
    ],
)
def test_bytes_that_are_no_record_are_refused(data, reason):
    assert refusal(codec.decode_record, data).reason == reason


def test_nested_arrays_that_announce_more_than_they_hold_take_little_memory():
    # Each of the 1,000 levels announces 2**20 elements; without our limit the peak is 90 MB.
    tracemalloc.start()
    try:
        error = refusal(codec.decode_record, b"\xdd\x00\x10\x00\x00" * 1000 + bytes(2**20))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error.reason == "malformed"
    assert peak < 16 * 2**20


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "no_key"),
        (b"", "no_key"),
        (b"call\xff", "key_not_utf8"),
        (b"\xed\xa0\x80", "key_not_utf8"),
        (b"k" * 257, "key_too_long"),
    ],
)
def test_a_bad_key_is_refused(key, reason):
    assert refusal(codec.decode_key, key).reason == reason


@pytest.mark.parametrize(
    ("stream", "reason"), [("", "no_key"), ("k" * 257, "key_too_long"), ("\ud800", "key_not_utf8")]
)
def test_a_bad_stream_id_is_refused_at_its_author(stream, reason):
    assert refusal(codec.encode_key, stream).reason == reason


def test_wire_imports_neither_kafka_nor_torch():
    code = "import sys, wire; print([m for m in ('aiokafka', 'torch', 'numpy', 'worker') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
