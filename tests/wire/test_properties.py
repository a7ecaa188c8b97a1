"""What must hold for every record, every event, and any bytes at all."""

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.wire import examples, strategies
from wire import REASONS, WireError, codec
from wire.records import Audio, End, Flush, Start

DECODERS = [codec.decode_record, codec.decode_final, codec.decode_partial, codec.decode_rejected]
PLAIN = [
    plain
    for group in (examples.RECORDS, examples.FINALS, examples.PARTIALS, examples.REJECTED)
    for _, plain in group.values()
]
FIELDS = sorted({key for plain in PLAIN for key in plain})


def refusal(decode, data) -> WireError | None:
    """The WireError that the bytes cause, if any; another error passes through and fails the test."""
    try:
        decode(data)
    except WireError as error:
        return error
    return None


def survives(data: bytes | None) -> None:
    """Every decoder takes the bytes, or raises WireError with a known reason and a bounded sentence."""
    for decode in DECODERS:
        error = refusal(decode, data)
        if error is not None:
            assert error.reason in REASONS
            assert len(str(error).encode()) < 1000


@given(strategies.RECORDS)
def test_a_record_survives_the_round_trip(record):
    assert codec.decode_record(codec.encode_record(record)) == record


@given(strategies.FINALS)
def test_a_final_survives_the_round_trip(event):
    assert codec.decode_final(codec.encode_final(event)) == event


@given(strategies.partials())
def test_a_partial_survives_the_round_trip(event):
    assert codec.decode_partial(codec.encode_partial(event)) == event


@given(st.binary() | st.none(), st.sampled_from(sorted(REASONS)), st.text())
def test_a_rejected_record_survives_the_round_trip(data, reason, detail):
    event = codec.reject(data, reason, detail)
    assert codec.decode_rejected(codec.encode_rejected(event)) == event


@given(strategies.text(1, 256))
def test_a_key_survives_the_round_trip(stream):
    assert codec.decode_key(codec.encode_key(stream)) == stream


@given(st.binary(max_size=512))
@example(b"\x81\xa1v" * 10_000)
@example(b"\x91" * 10_000)
@example(b"\xdd\xff\xff\xff\xff" * 2000)
@example(b"\xdf\xff\xff\xff\xff")
@example(b"\xd6\xff\x00\x00\x00\x00")
def test_arbitrary_bytes_raise_nothing_but_a_wire_error(data):
    survives(data)


@given(st.binary(max_size=300))
def test_arbitrary_keys_raise_nothing_but_a_wire_error(key):
    error = refusal(codec.decode_key, key)
    if error is None:
        assert codec.decode_key(key).encode() == key
    else:
        assert error.reason in ("no_key", "key_not_utf8", "key_too_long")


@given(strategies.VALUES)
def test_arbitrary_msgpack_values_raise_nothing_but_a_wire_error(value):
    survives(msgpack.packb(value))


@given(st.sampled_from(PLAIN), st.dictionaries(st.sampled_from(FIELDS), strategies.VALUES, max_size=3))
def test_good_maps_with_some_fields_replaced_raise_nothing_but_a_wire_error(plain, changes):
    survives(msgpack.packb(plain | changes))


@given(st.sampled_from(PLAIN), st.data())
def test_good_bytes_with_one_byte_changed_raise_nothing_but_a_wire_error(plain, data):
    packed = bytearray(msgpack.packb(plain))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(packed))


@given(st.sampled_from(PLAIN), st.data())
def test_no_proper_prefix_of_good_bytes_is_accepted(plain, data):
    packed = msgpack.packb(plain)
    prefix = packed[: data.draw(st.integers(0, len(packed) - 1))]
    for decode in DECODERS:
        with pytest.raises(WireError) as caught:
            decode(prefix)
        assert caught.value.reason == "malformed"


ANYTHING = st.none() | st.integers() | st.text() | st.binary() | st.floats() | st.lists(st.integers())


@given(
    st.builds(Start, nonce=ANYTHING, encoding=ANYTHING, metadata=ANYTHING, options=ANYTHING)
    | st.builds(Audio, sequence=ANYTHING, position=ANYTHING, payload=ANYTHING, nonce=ANYTHING)
    | st.builds(Flush, id=ANYTHING, position=ANYTHING)
    | st.builds(End, nonce=st.text(st.characters()), position=ANYTHING)
    | ANYTHING
)
def test_what_is_written_can_be_read_or_else_is_refused_at_its_author(record):
    try:
        data = codec.encode_record(record)
    except WireError:
        return
    codec.decode_record(data)
