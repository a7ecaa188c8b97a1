"""Which frames each row computes at each layer of a step, where they lie in the rings, and what may see what.

At a layer with right context R and right padding P of its convolution, row b has had `n` input frames and gets `t`
more. Keys and values of all n + t are known; a frame can attend once its R frames to the right are there, and be
convolved once P more are:

    inputs    [n, n + t)
    queries   [n - R, n + t - R)              (to n + t at the segment's end)
    outputs   [n - R - P, n + t - R - P)      (to n + t at the segment's end)

The outputs are the next layer's inputs, so nothing is computed twice: the look-ahead of a `regular` model costs
delay, not arithmetic. In `chunked_limited` R = P = 0 here (the look-ahead lies inside the chunk) and all layers share
one plan.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.fast.ring import Ring

Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Context:
    """What a frame sees: `left` frames of attention, `right` (R) and the convolution's left and right padding."""

    left: int
    right: int
    chunk: int | None  # frames of a chunk; None in `regular`
    conv_left: int
    conv_right: int


@dataclass(frozen=True, slots=True)
class Rings:
    """The rings of one encoder; `ahead` and `beside` exist where a layer delays its frames."""

    kv: Ring
    conv: Ring
    ahead: Ring | None  # layer input and query of frames that wait for their right context
    beside: Ring | None  # residual of frames that wait for the convolution's right padding


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


@dataclass(frozen=True, slots=True)
class Plan:
    layers: list[LayerPlan]  # one for each layer, or one for all
    emitted: Counts  # (B,) frames that leave the last layer


def make_plan(
    rings: Rings,
    context: Context,
    layers: int,
    slots: Counts,
    done: Counts,
    frames: Counts,
    last: NDArray[np.bool_],
    device: torch.device,
) -> Plan:
    """done: (B,) input frames of the segment so far; frames: (B,) new ones; last: (B,) the segment ends with them."""
    delayed = context.right + context.conv_right > 0
    plans = []
    start, count = done, frames
    for _ in range(layers if delayed else 1):
        plan, start, count = _layer(rings, context, slots, start, count, last, device)
        plans.append(plan)
    return Plan(plans, count)


def _layer(
    rings: Rings,
    context: Context,
    slots: Counts,
    start: Counts,
    count: Counts,
    last: NDArray[np.bool_],
    device: torch.device,
) -> tuple[LayerPlan, Counts, Counts]:
    end = start + count
    query = np.maximum(start - context.right, 0)
    query_end = np.where(last, end, np.maximum(end - context.right, 0))
    out = np.maximum(query - context.conv_right, 0)
    out_end = np.where(last, query_end, np.maximum(query_end - context.conv_right, 0))
    inputs, queries, outputs = (max(1, int(n.max())) for n in (count, query_end - query, out_end - out))

    def to(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(device)

    keys = context.left + queries + context.right
    window = context.conv_left + outputs + context.conv_right
    conv_first = out - context.conv_left
    conv_valid = None
    if context.conv_right:
        place = conv_first[:, None] + np.arange(window)
        conv_valid = to((place >= 0) & (place < query_end[:, None]))[:, :, None]
    plan = LayerPlan(
        left=context.left,
        kv_write=to(rings.kv.rows(slots, start, inputs)),
        kv_read=to(rings.kv.rows(slots, query - context.left, keys)),
        hidden=to(_hidden(context, query, queries, keys, end))[:, None],
        conv_write=to(rings.conv.rows(slots, query, queries)),
        conv_read=to(rings.conv.rows(slots, conv_first, window)),
        conv_valid=conv_valid,
        ahead_write=to(rings.ahead.rows(slots, start, inputs)) if rings.ahead else None,
        ahead_read=to(rings.ahead.rows(slots, query, queries)) if rings.ahead else None,
        beside_write=to(rings.beside.rows(slots, query, queries)) if rings.beside else None,
        beside_read=to(rings.beside.rows(slots, out, outputs)) if rings.beside else None,
    )
    return plan, out, out_end - out


def _hidden(context: Context, query: Counts, queries: int, keys: int, end: Counts) -> NDArray[np.bool_]:
    """(B, queries, keys): True where a key does not exist or lies outside the query's context."""
    frame = query[:, None] + np.arange(queries)
    key = query[:, None] - context.left + np.arange(keys)
    exists = (key >= 0) & (key < end[:, None])
    if context.chunk is None:
        distance = frame[:, :, None] - key[:, None, :]
        seen = (distance <= context.left) & (distance >= -context.right)
    else:
        distance = frame[:, :, None] // context.chunk - key[:, None, :] // context.chunk
        seen = (distance >= 0) & (distance <= context.left // context.chunk)
    return ~(seen & exists[:, None, :])
