"""The fixed cache update: the one place where attention and convolution caches advance."""

import torch
from torch import Tensor

from worker.engine.ragged import window


def advance(cache: Tensor, new: Tensor, keep: Tensor) -> Tensor:
    """The last C frames of (cache, then the first `keep[b]` of the new frames), for every row b.

    cache: (B, C, D), right-aligned: the newest frame is last. new: (B, T, D). keep: (B,) int64, 0 <= keep <= T:
    the frames this step emitted. Look-ahead that comes again, padding up to the longest row and a convolution's
    right padding all lie after the kept frames and so never enter. Returns (B, C, D).

    NeMo 3.0.0 keeps the same number of frames for every row, and in the convolution takes in right padding and
    frames that it discards afterwards (its pull request 15323).
    """
    return advanced(torch.cat([cache, new], dim=1), keep, cache.shape[1])


def advanced(both: Tensor, keep: Tensor, size: int) -> Tensor:
    """`advance` for a cache of `size` frames that its new frames already follow: both (B, size + T, ...)."""
    return window(both, keep, size)
