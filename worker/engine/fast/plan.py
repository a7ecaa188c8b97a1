"""Which frames each row computes at each layer of a pass, where they lie in the rings, and what may see what.

At a layer with right context R and right padding P of its convolution, row b has had `n` input frames and gets `t`
more. Keys and values of all n + t are known; a frame can attend once its R frames to the right are there, and be
convolved once P more are:

    inputs    [n, n + t)
    queries   [n - R, n + t - R)              (to n + t at the segment's end)
    outputs   [n - R - P, n + t - R - P)      (to n + t at the segment's end)

The outputs are the next layer's inputs, so nothing is computed twice: the look-ahead of a `regular` model costs
delay, not arithmetic. In `chunked_limited` R = P = 0 here (the look-ahead lies inside the chunk) and all layers share
one plan.

The host knows the *shape* of a pass, how many columns each layer has; where the columns of a row lie is computed on the
device, from one small tensor of numbers. So a pass of a given shape is always the same operations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.fast.ring import Ring

Counts = NDArray[np.int64]
Vector = Any  # (B,) int64: numpy on the host, torch on the device


@dataclass(frozen=True, slots=True)
class Context:
    """What a frame sees: `left` frames of attention, `right` (R) and the convolution's left and right padding (P)."""

    left: int
    right: int
    chunk: int | None  # frames of a chunk; None in `regular`
    conv_left: int
    conv_right: int

    @property
    def wait(self) -> int:
        """Frames that a layer holds back."""
        return self.right + self.conv_right


@dataclass(frozen=True, slots=True)
class Rings:
    """The rings of one encoder; `ahead` and `beside` exist where a layer delays its frames."""

    kv: Ring
    conv: Ring
    ahead: Ring | None  # layer input and query of frames that wait for their right context
    beside: Ring | None  # residual of frames that wait for the convolution's right padding


@dataclass(frozen=True, slots=True)
class Progress:
    """How far each row of a pass is: input frames of its segment before and after it, and 1 where it ends there."""

    done: Vector
    end: Vector
    last: Vector

    def span(self, delay: int) -> tuple[Vector, Vector]:
        """First frame and one past the last of what lies `delay` frames behind the encoder's input."""
        first, past = (self.done - delay).clip(0), (self.end - delay).clip(0)
        return first, past + self.last * (self.end - past)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Columns of one layer in a pass: at least as many as the row that has most."""

    inputs: int
    queries: int
    outputs: int


def exact_shape(context: Context, layers: int, progress: Progress) -> tuple[LayerShape, ...]:
    """No column more than the batch needs; one entry for each layer, or one for all."""

    def most(delay: int) -> int:
        first, past = progress.span(delay)
        return max(1, int((past - first).max()))

    delays = [layer * context.wait for layer in range(layers if context.wait else 1)]
    return tuple(LayerShape(most(d), most(d + context.right), most(d + context.wait)) for d in delays)


def full_shape(context: Context, layers: int, frames: int, ends: bool) -> tuple[LayerShape, ...]:
    """Columns that are enough for any rows of at most `frames` frames; `ends` says whether a segment may end.

    At its end a row gets all frames at once that earlier layers held back.
    """
    late = context.wait if ends else 0
    ahead = context.right if ends else 0
    return tuple(
        LayerShape(frames + layer * late, frames + layer * late + ahead, frames + (layer + 1) * late)
        for layer in range(layers if context.wait else 1)
    )


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Ring rows and masks of one layer, on the device."""

    left: int
    kv_write: Tensor
    kv_read: Tensor
    hidden: Tensor  # (B, 1, queries, keys): what a query must not see
    conv_write: Tensor
    conv_read: Tensor
    conv_valid: Tensor | None  # (B, window, 1): frames that exist
    ahead_write: Tensor | None
    ahead_read: Tensor | None
    beside_write: Tensor | None
    beside_read: Tensor | None


def make_plan(
    rings: Rings, context: Context, slots: Tensor, progress: Progress, shape: tuple[LayerShape, ...]
) -> list[LayerPlan]:
    """A plan for each layer, or one for all; slots: (B,)."""
    return [
        _layer(rings, context, slots, progress, number * context.wait, columns) for number, columns in enumerate(shape)
    ]


def _layer(
    rings: Rings, context: Context, slots: Tensor, progress: Progress, delay: int, shape: LayerShape
) -> LayerPlan:
    start, end = progress.span(delay)
    query, query_end = progress.span(delay + context.right)
    out, _ = progress.span(delay + context.wait)
    keys = context.left + shape.queries + context.right
    window = context.conv_left + shape.outputs + context.conv_right
    conv_valid = None
    if context.conv_right:
        place = (out - context.conv_left)[:, None] + torch.arange(window, device=out.device)
        conv_valid = ((place >= 0) & (place < query_end[:, None]))[:, :, None]
    return LayerPlan(
        left=context.left,
        kv_write=rings.kv.rows(slots, start, shape.inputs),
        kv_read=rings.kv.rows(slots, query - context.left, keys),
        hidden=_hidden(context, query, shape.queries, keys, end)[:, None],
        conv_write=rings.conv.rows(slots, query, shape.queries),
        conv_read=rings.conv.rows(slots, out - context.conv_left, window),
        conv_valid=conv_valid,
        ahead_write=rings.ahead.rows(slots, start, shape.inputs) if rings.ahead else None,
        ahead_read=rings.ahead.rows(slots, query, shape.queries) if rings.ahead else None,
        beside_write=rings.beside.rows(slots, query, shape.queries) if rings.beside else None,
        beside_read=rings.beside.rows(slots, out, shape.outputs) if rings.beside else None,
    )


def _hidden(context: Context, query: Tensor, queries: int, keys: int, end: Tensor) -> Tensor:
    """(B, queries, keys): True where a key does not exist or lies outside the query's context."""
    frame = query[:, None] + torch.arange(queries, device=query.device)
    key = query[:, None] - context.left + torch.arange(keys, device=query.device)
    exists = (key >= 0) & (key < end[:, None])
    if context.chunk is None:
        distance = frame[:, :, None] - key[:, None, :]
        seen = (distance <= context.left) & (distance >= -context.right)
    else:
        distance = (frame // context.chunk)[:, :, None] - (key // context.chunk)[:, None, :]
        seen = (distance >= 0) & (distance <= context.left // context.chunk)
    return ~(seen & exists[:, None, :])
