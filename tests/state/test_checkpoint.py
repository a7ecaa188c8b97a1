"""Checkpoints as bytes: all of it comes back, and nothing but a whole, fitting one is ever taken."""

import hashlib
from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="checkpoints hold tensors (the worker extra)")

from worker.batching.feed import FeedState  # noqa: E402
from worker.engine.interface import Mode, SlotState  # noqa: E402
from worker.state.checkpoint import (  # noqa: E402
    VERSION,
    Checkpoint,
    CheckpointError,
    Fingerprint,
    decode,
    encode,
)

PRINT = Fingerprint("m@1", "layout-1")
HEAD = 4 + 1 + 32
RUN = {"samples": b"\0\0\x80\x3f" * 3, "received": 10, "taken": 7, "chunks": 1, "closed": False}
TENSORS = {
    "kv": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4) / 7,
    "half": torch.tensor([1.0, float("nan"), float("-inf")], dtype=torch.bfloat16),
    "label": torch.tensor(-5),
    "none": torch.zeros(0, 3),
    "turned": torch.arange(6).reshape(2, 3).T,
}
SLOT = SlotState(Mode(1, "rnnt"), {"frames": 12, "tail": 199}, TENSORS)
CHECKPOINT = Checkpoint(
    "call/0", 7, 123, {"session": {"held": [b"\0\xff"]}, "heard": 5}, SLOT, FeedState(SLOT.mode, [RUN], True)
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def same_bits(a, b):
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8))
    )


def test_everything_comes_back_bit_for_bit():
    found = decode(encode(CHECKPOINT, PRINT), PRINT)
    assert replace(found, slot=None) == replace(CHECKPOINT, slot=None)
    assert (found.slot.mode, found.slot.counters) == (SLOT.mode, SLOT.counters)
    assert found.slot.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert same_bits(found.slot.tensors[name], tensor), name
    found.slot.tensors["kv"].zero_()  # its memory is its own
    assert same_bits(decode(encode(CHECKPOINT, PRINT), PRINT).slot.tensors["kv"], TENSORS["kv"])


@given(
    st.text(),
    st.integers(0, 2**63),
    st.integers(0, 2**63),
    st.dictionaries(st.text(), PLAIN, max_size=5),
    st.booleans(),
    st.lists(st.just(RUN), max_size=3),
)
@settings(max_examples=100, deadline=None)
def test_any_stream_of_plain_values_comes_back(stream, first, offset, host, ending, runs):
    checkpoint = Checkpoint(stream, first, offset, host, None, FeedState(Mode(0, "ctc"), runs, ending))
    assert decode(encode(checkpoint, PRINT), PRINT) == checkpoint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 5)])
def test_every_dtype_and_shape(dtype, shape):
    tensor = (torch.randn(shape) * 50).to(dtype)
    slot = SlotState(Mode(1, "rnnt"), {}, {"x": tensor})
    found = decode(encode(replace(CHECKPOINT, slot=slot), PRINT), PRINT)
    assert same_bits(found.slot.tensors["x"], tensor)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Fingerprint("m@2", "layout-1"), "is of model m@1, this worker runs m@2"),
        (Fingerprint("m@1", "layout-2"), "has layout layout-1, this worker's has layout-2"),
    ],
)
def test_a_checkpoint_of_another_model_or_layout_is_refused(other, said):
    with pytest.raises(CheckpointError, match=said):
        decode(encode(CHECKPOINT, PRINT), other)


def test_another_format_is_refused():
    data = bytearray(encode(CHECKPOINT, PRINT))
    assert data[4] == VERSION
    data[4] += 1
    with pytest.raises(CheckpointError, match=f"format {VERSION + 1}"):
        decode(bytes(data), PRINT)


def test_no_part_of_a_checkpoint_is_taken_for_one():
    data = encode(CHECKPOINT, PRINT)
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            decode(data[:length], PRINT)
    with pytest.raises(CheckpointError, match="checksum"):
        decode(data + b"\0", PRINT)


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_no_changed_byte_is_overlooked(place, change):
    data = bytearray(encode(CHECKPOINT, PRINT))
    data[place % len(data)] ^= change
    with pytest.raises(CheckpointError):
        decode(bytes(data), PRINT)


def sealed(body):
    """`body` under a head that fits it: what a bug, not an accident, would make."""
    return b"TLCP" + bytes([VERSION]) + hashlib.sha256(body).digest() + body


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_checkpoint_error_and_nothing_else(data):
    for found in (data, sealed(data)):
        with pytest.raises(CheckpointError):
            decode(found, PRINT)


BODY = msgpack.unpackb(encode(CHECKPOINT, PRINT)[HEAD:])


def paths(value, at=()):
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*at, key))


INSIDE = [path for path in paths(BODY) if path and path[0] not in ("host", "model", "layout")]


@given(st.sampled_from(INSIDE), PLAIN, st.booleans())
@settings(max_examples=400, deadline=None)
def test_a_well_sealed_body_with_a_wrong_field_is_refused_or_of_the_right_type(path, value, remove):
    body = msgpack.unpackb(msgpack.packb(BODY))
    inner = body
    for step in path[:-1]:
        inner = inner[step]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    try:
        found = decode(sealed(msgpack.packb(body)), PRINT)
    except CheckpointError:
        return
    assert isinstance(found.stream, str)
    assert type(found.first_offset) is type(found.offset) is int
    assert all(len(run) == 5 for run in found.feed.runs)
    assert found.slot is None or all(isinstance(t, torch.Tensor) for t in found.slot.tensors.values())


def test_it_holds_no_pickle():
    import pickletools

    with pytest.raises(Exception):  # noqa: B017 whatever pickle says of it
        list(pickletools.genops(encode(CHECKPOINT, PRINT)))
