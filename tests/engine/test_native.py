"""The compiled operations equal PyTorch's in double precision, at any size, and keep rows apart."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import require
from tests.engine.models import uncompiled
from worker.engine import native
from worker.engine.fast.linear import After, Linear, Norm

if not native.supported():
    pytest.skip("for x86-64 with AVX2", allow_module_level=True)
require(native.loaded(), f"operations that are compiled: {native.COMMAND}")

shapes = st.sampled_from([(1,), (5,), (1, 1), (2, 3), (3, 7), (0, 4)]) | st.tuples(st.integers(1, 110))
threads = pytest.mark.parametrize("count", [1, 2])


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@threads
@given(
    shape=shapes,
    outputs=st.integers(1, 100),
    inputs=st.integers(1, 70),
    biased=st.booleans(),
    normed=st.booleans(),
    silu=st.booleans(),
    after=st.sampled_from(["", "silu", "glu"]),
    residual=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_a_linear_map_with_what_stands_around_it(
    count: int,
    shape: tuple[int, ...],
    outputs: int,
    inputs: int,
    biased: bool,
    normed: bool,
    silu: bool,
    after: After,
    residual: bool,
) -> None:
    torch.manual_seed(outputs)
    # ones that lie otherwise in memory than their shapes say, as the step's do
    x, beside = (torch.randn(size, *shape).movedim(0, -1) for size in (inputs, outputs))
    rows = 2 * outputs if after == "glu" else outputs
    weight, bias = torch.randn(rows, inputs), torch.randn(rows) if biased else None
    norm = Norm(torch.randn(inputs), torch.randn(inputs), 1e-3) if normed else None
    added = beside if residual else None

    expected = x.double()
    if norm is not None:
        expected = F.layer_norm(expected, (inputs,), norm.scale.double(), norm.shift.double(), norm.epsilon)
    expected = F.silu(expected) if silu else expected
    expected = F.linear(expected, weight.double(), None if bias is None else bias.double())
    expected = {"": lambda y: y, "silu": F.silu, "glu": lambda y: F.glu(y, dim=-1)}[after](expected)
    expected = expected if added is None else expected + added

    with on_threads(count):
        found = Linear(weight, bias, torch.float32, norm=norm, silu=silu, after=after)(x, added)
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-5)
    with uncompiled():
        other = Linear(weight, bias, torch.float32, norm=norm, silu=silu, after=after)(x, added)
    torch.testing.assert_close(other.double(), expected, atol=2e-4, rtol=1e-5)


@threads
@pytest.mark.parametrize("after", ["", "silu", "glu"])
@given(rows=st.integers(1, 100), inputs=st.sampled_from([3, 64, 700]))
@settings(max_examples=20, deadline=None)
def test_a_row_is_the_same_bits_whatever_rows_are_beside_it(count: int, after: After, rows: int, inputs: int) -> None:
    torch.manual_seed(rows)
    norm = Norm(torch.ones(inputs), torch.zeros(inputs), 1e-5)
    multiply = Linear(torch.randn(200, inputs), torch.randn(200), torch.float32, norm=norm, after=after)
    x = torch.randn(rows, inputs)
    alone = torch.cat([multiply(row) for row in x[:, None]])
    with on_threads(count):
        found = multiply(torch.cat([x, torch.full((1, inputs), torch.nan)]))
    assert torch.equal(found[:-1], alone)
    assert found[-1].isnan().all()


@pytest.mark.parametrize("value", [-200.0, -88.0, -20.0, 0.0, 20.0, 88.0, 200.0, torch.nan])
@pytest.mark.parametrize("after", ["silu", "glu"])
def test_activations_of_extreme_values(after: After, value: float) -> None:
    identity = torch.eye(16) if after == "glu" else torch.eye(8)
    x = torch.ones(1, len(identity))
    x[0, -8:] = value
    found = Linear(identity, None, torch.float32, after=after)(x)
    expected = F.silu(x.double()) if after == "silu" else F.glu(x.double(), dim=-1)
    torch.testing.assert_close(found.double(), expected, atol=1e-30, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    ("x", "residual", "says"),
    [
        (torch.zeros(2, 5), None, r"not \(..., 4\)"),
        (torch.zeros(2, 4, dtype=torch.float64), None, r"not \(..., 4\) float32"),
        (torch.zeros(2, 4), torch.zeros(2, 2), r"residual is \[2, 2\], not \[2, 3\]"),
    ],
)
def test_a_product_that_does_not_fit_says_so(x: Tensor, residual: Tensor | None, says: str) -> None:
    with pytest.raises(RuntimeError, match=says):
        Linear(torch.zeros(3, 4), None, torch.float32)(x, residual)


class Attention:
    """Arguments of one call, and what it should give by the formula, in double precision."""

    def __init__(self, batch: int, queries: int, left: int, heads: int, d: int, seed: int) -> None:
        torch.manual_seed(seed)
        width, keys, frames = heads * d, left + queries, left + queries + 3
        self.query = torch.randn(batch, queries, width)
        self.table = torch.randn(batch * frames + 5, 2 * width)
        self.rows = torch.stack([b * frames + (torch.arange(keys) + 7 * b) % frames for b in range(batch)])
        self.hidden = torch.rand(batch, 1, queries, keys) < 0.3
        self.hidden[..., -1] = False  # what sees nothing gets something finite, no more is promised
        self.u, self.v = torch.randn(width), torch.randn(width)
        columns = keys + queries - 1
        self.first = 2
        self.positions = torch.randn(heads, d, self.first + columns + 1)
        self._sizes = batch, queries, keys, heads, d

    def __call__(self) -> Tensor:
        keys = self.rows, self.hidden
        return torch.ops.trunkline.attend(self.query, self.table, *keys, self.u, self.v, self.positions, self.first)  # type: ignore[no-any-return]

    def expected(self) -> Tensor:
        batch, queries, keys, heads, d = self._sizes
        query = self.query.double().view(batch, queries, heads, d)
        u, v = (bias.double().view(heads, d) for bias in (self.u, self.v))
        key, value = self.table.double()[self.rows].view(batch, keys, 2, heads, d).unbind(2)
        content = torch.einsum("bqhd,bkhd->bhqk", query + u, key)
        column = self.first + queries - 1 - torch.arange(queries)[:, None] + torch.arange(keys)
        distance = torch.einsum("bqhd,hdqk->bhqk", query + v, self.positions.double()[:, :, column])
        scores = content + distance.masked_fill(self.hidden, -10000.0)
        return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).reshape(batch, queries, heads * d)


@threads
@given(
    batch=st.integers(1, 5),
    queries=st.integers(1, 15),
    left=st.integers(0, 40),
    heads=st.sampled_from([1, 3, 4]),
    d=st.integers(1, 40) | st.sampled_from([64, 100, 128]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
def test_attention_of_any_size(count: int, batch: int, queries: int, left: int, heads: int, d: int, seed: int) -> None:
    call = Attention(batch, queries, left, heads, d, seed)
    with on_threads(count):
        found = call()
    torch.testing.assert_close(found.double(), call.expected(), atol=1e-4, rtol=1e-4)


@threads
def test_a_stream_of_nan_and_one_that_sees_nothing_leave_their_neighbours_alone(count: int) -> None:
    call = Attention(4, 3, 20, 4, 36, 0)
    before = call()
    call.table[call.rows[1]] = torch.nan
    call.query[2] = torch.nan
    call.hidden[3] = True
    with on_threads(count):
        after = call()
    # hidden keys too: what is not a number in a ring is never passed over
    call.hidden[1] = True
    call.table[call.rows[1], 4 * 36 :] = 0
    assert call()[1].isnan().all()
    assert torch.equal(after[0], before[0])
    assert after[1:3].isnan().all()
    assert after[3].isfinite().all()


def _row_too_far(call: Attention) -> None:
    call.rows[0, 0] = len(call.table)


def _row_before_the_first(call: Attention) -> None:
    call.rows[0, 0] = -1


def _positions_too_few(call: Attention) -> None:
    call.first += 2


def _bias_too_short(call: Attention) -> None:
    call.u = call.u[:1]


def _hidden_of_other_queries(call: Attention) -> None:
    call.hidden = call.hidden.transpose(2, 3).contiguous()


SPOILT = [_row_too_far, _row_before_the_first, _positions_too_few, _bias_too_short, _hidden_of_other_queries]


@pytest.mark.parametrize("spoil", SPOILT)
def test_attention_never_reads_what_is_not_its(spoil: Callable[[Attention], None]) -> None:
    call = Attention(2, 2, 5, 2, 8, 0)
    spoil(call)
    with pytest.raises((IndexError, RuntimeError), match="attend: "):
        call()
