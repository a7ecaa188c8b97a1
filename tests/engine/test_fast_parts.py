"""The fast step's own linear map and depthwise convolution equal PyTorch's, whichever way they are computed."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.engine import native
from worker.engine.fast.layer import AT_ONCE, Depthwise
from worker.engine.fast.linear import Linear

native_only = pytest.mark.skipif(not native.supported(), reason="our products are for x86-64 with AVX2")


@pytest.mark.parametrize("packed", [pytest.param(True, marks=native_only), False])
@given(
    shape=st.sampled_from([(1,), (5,), (1, 1), (2, 3), (3, 7), (0, 4)]) | st.tuples(st.integers(1, 110)),
    outputs=st.integers(1, 100),
    inputs=st.integers(1, 70),
    biased=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_linear_map_of_any_size(packed, shape, outputs, inputs, biased):
    torch.manual_seed(outputs)
    # one that lies otherwise in memory than its shape says, as the step's do
    x = torch.randn(inputs, *shape).movedim(0, -1)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    found = mapped(weight, bias, packed)(x)
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)
    assert found.is_contiguous()


@native_only
@given(rows=st.integers(1, 100), threads=st.integers(1, 3), inputs=st.sampled_from([3, 64, 700]))
@settings(max_examples=40, deadline=None)
def test_a_row_is_the_same_bits_whatever_rows_are_beside_it(rows, threads, inputs):
    torch.manual_seed(rows)
    multiply = mapped(torch.randn(200, inputs), torch.randn(200), packed=True)
    x = torch.randn(rows, inputs)
    alone = torch.cat([multiply(row) for row in x[:, None]])
    x = torch.cat([x, torch.full((1, inputs), torch.nan)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = multiply(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[:-1], alone)
    assert found[-1].isnan().all()


@native_only
@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(2, 5), r"not \(..., 4\)"),
        (torch.zeros(2, 4, dtype=torch.float64), r"not \(..., 4\) float32"),
    ],
)
def test_a_product_that_does_not_fit_says_so(x, says):
    with pytest.raises(RuntimeError, match=says):
        mapped(torch.zeros(3, 4), None, packed=True)(x)


def mapped(weight: Tensor, bias: Tensor | None, packed: bool) -> Linear:
    if packed and not native.loaded():
        pytest.fail(f"not compiled: {native.COMMAND}")
    with patch.object(native, "loaded", lambda: packed):
        return Linear(weight, bias, torch.float32)


@given(
    batch=st.integers(1, 9),
    frames=st.integers(1, 40),
    width=st.sampled_from([1, 8, 176]),
    taps=st.sampled_from([1, 2, 9, 31]),
    shifted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_depthwise_convolution_of_any_size(batch, frames, width, taps, shifted):
    torch.manual_seed(frames)
    kernel, shift = torch.randn(width, 1, taps), torch.randn(width) if shifted else None
    window = torch.randn(batch, frames + taps - 1, width)
    expected = F.conv1d(window.transpose(1, 2), kernel, shift, groups=width).transpose(1, 2)
    torch.testing.assert_close(Depthwise(kernel, shift)(window), expected, atol=1e-4, rtol=1e-4)


def test_both_ways_to_convolve_are_tried_above():
    assert 1 * 1 * 1 <= AT_ONCE < 9 * 40 * 176
