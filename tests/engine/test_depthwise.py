"""The fast step's own depthwise convolution equals PyTorch's, whichever way it is computed."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.engine.fast.layer import AT_ONCE, Depthwise


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
