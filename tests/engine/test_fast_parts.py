"""The fast step's own linear map and depthwise convolution equal PyTorch's, whichever way they are computed."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.fast.layer import AT_ONCE, Depthwise
from worker.engine.fast.linear import FEWEST, MOST, linear


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), [(96, 32), (32, 32), (32, 96)])
@pytest.mark.parametrize("shape", [(1, 1), (1, FEWEST), (2, 2), (1, MOST), (MOST, 1), (MOST + 1, 1), (3, 7)])
def test_a_linear_map_of_any_number_of_rows(shape, outputs, inputs, biased):
    torch.manual_seed(0)
    # one that lies otherwise in memory than its shape says, as the step's do
    x = torch.randn(shape[1], shape[0], inputs, dtype=torch.float32).transpose(0, 1)
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs) if biased else None
    found = linear(x, weight, bias)
    torch.testing.assert_close(found, F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)
    assert found.is_contiguous()


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
