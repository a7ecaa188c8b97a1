"""Batches whose rows differ in length: left-aligned rows, a length each, no loop over rows."""

import torch
from torch import Tensor


def window(x: Tensor, start: Tensor, size: int) -> Tensor:
    """`x[b, start[b] : start[b] + size]` for every row b.

    x: (B, T, ...); start: (B,) int64. Returns (B, size, ...). Positions past the end repeat the last one, so
    the caller masks what it did not mean to read.
    """
    index = (start[:, None] + torch.arange(size, device=x.device)).clamp_(0, x.shape[1] - 1)
    index = index.view(*index.shape, *([1] * (x.dim() - 2))).expand(-1, -1, *x.shape[2:])
    return x.gather(1, index)


def valid(length: Tensor, size: int) -> Tensor:
    """(B, size) mask of the first `length[b]` places of each row."""
    return torch.arange(size, device=length.device) < length[:, None]


def join(head: Tensor, head_length: Tensor, body: Tensor, size: int) -> Tensor:
    """Each row's `head` (its valid part) followed by its `body`, left-aligned.

    head: (B, H, ...), body: (B, T, ...), head_length: (B,). Returns (B, size, ...); what lies past a row's own
    data is unspecified.
    """
    both = torch.cat([head, body], dim=1)
    column = torch.arange(size, device=head.device)
    index = torch.where(column < head_length[:, None], column, column + (head.shape[1] - head_length[:, None]))
    index = index.clamp_(0, both.shape[1] - 1).view(*index.shape, *([1] * (both.dim() - 2)))
    return both.gather(1, index.expand(-1, -1, *both.shape[2:]))
