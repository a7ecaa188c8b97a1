"""One FastConformer layer on projected K and V.

Weights are taken from NeMo's layer once: q, k and v fused into one product, the scale 1/sqrt(d_k) folded into q, the
factor 1/2 into the feed-forward modules, batch norm into the depthwise convolution, positions projected for the longest
step and sliced.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine import native
from worker.engine.fast.linear import Affine, Linear, Norm, affine
from worker.engine.fast.plan import LayerPlan, Rings

# exp of this is 0 in float32 beside any score, and a row that sees nothing stays finite
HIDDEN = -10000.0

# Outputs of a depthwise convolution up to which all taps are multiplied at once; more, and one tap after the other.
AT_ONCE = 40_000


class FastLayer:
    """Weights of one layer and its step."""

    def __init__(self, layer: Any, index: int, positions: Tensor, farthest: int, dtype: torch.dtype) -> None:
        """positions: (W, width), the encodings of distances `farthest` down to `farthest - W + 1`."""
        self._index = index
        attention = layer.self_attn
        self._heads = int(attention.h)
        self._head = int(attention.d_k)
        self._width = self._heads * self._head
        self._farthest = farthest
        scale = 1 / math.sqrt(self._head)
        self._feed1 = _FeedForward(layer.norm_feed_forward1, layer.feed_forward1, dtype)
        self._feed2 = _FeedForward(layer.norm_feed_forward2, layer.feed_forward2, dtype)
        q, k, v = (affine(m) for m in (attention.linear_q, attention.linear_k, attention.linear_v))
        weight = torch.cat([q[0] * scale, k[0], v[0]])
        biases = [q[1], k[1], v[1]]
        bias = None
        if any(b is not None for b in biases):
            full = [b if b is not None else q[0].new_zeros(self._width) for b in biases]
            bias = torch.cat([full[0] * scale, full[1], full[2]])
        self._qkv = Linear(weight, bias, dtype, norm=Norm.of(layer.norm_self_att, dtype))
        self._u = (attention.pos_bias_u.detach() * scale).flatten().to(dtype)
        self._v = (attention.pos_bias_v.detach() * scale).flatten().to(dtype)
        on_processor = self._u.device.type == "cpu" and dtype == torch.float32
        self._native = on_processor and self._head <= native.DEEPEST_HEAD and native.loaded()
        projected = F.linear(positions, attention.linear_pos.weight.detach().float())
        # (heads, d_k, W)
        self._positions = projected.view(-1, self._heads, self._head).permute(1, 2, 0).contiguous().to(dtype)
        self._attention_out = Linear(*affine(attention.linear_out), dtype)
        convolution = layer.conv
        self._expand = Linear(
            *_pointwise(convolution.pointwise_conv1), dtype, norm=Norm.of(layer.norm_conv, dtype), after="glu"
        )
        depthwise = convolution.depthwise_conv
        kernel = depthwise.weight.detach()
        shift = None if depthwise.bias is None else depthwise.bias.detach()
        norm = None
        if convolution.norm_type == "layer_norm":
            norm = Norm.of(convolution.batch_norm, dtype)
        else:
            kernel, shift = _fold(convolution.batch_norm, kernel, shift)
        self._depthwise = Depthwise(kernel.to(dtype), None if shift is None else shift.to(dtype))
        self._contract = Linear(*_pointwise(convolution.pointwise_conv2), dtype, norm=norm, silu=True)
        self._norm_out = Norm.of(layer.norm_out, dtype)

    def __call__(self, x: Tensor, plan: LayerPlan, rings: Rings) -> Tensor:
        """x: (B, inputs, width). Returns (B, outputs, width)."""
        x = self._feed1(x)
        qkv = self._qkv(x)
        rings.kv.write(self._index, plan.kv_write, qkv[:, :, self._width :])
        query = qkv[:, :, : self._width]
        if rings.ahead is not None and plan.ahead_write is not None and plan.ahead_read is not None:
            rings.ahead.write(self._index, plan.ahead_write, torch.cat([x, query], dim=-1))
            x, query = rings.ahead.read(self._index, plan.ahead_read).chunk(2, dim=-1)
        x = self._attention_out(self._attend(query, plan, rings), x)
        gated = self._expand(x)
        rings.conv.write(self._index, plan.conv_write, gated)
        if rings.beside is not None and plan.beside_write is not None and plan.beside_read is not None:
            rings.beside.write(self._index, plan.beside_write, x)
            x = rings.beside.read(self._index, plan.beside_read)
        x = self._contract(self._convolve(plan, rings), x)
        x = self._feed2(x)
        return self._norm_out(x)

    def _attend(self, query: Tensor, plan: LayerPlan, rings: Rings) -> Tensor:
        """Transformer-XL attention (Dai et al. 2019, section 3.3): (q + u) k + (q + v) p, positions by distance.

        Row i of `near` holds query i's scores for the distances left + queries - 1 downwards; the key at place j lies
        at distance left + i - j, which is column queries - 1 - i + j: a view with a shifted stride, no copy.
        """
        batch, queries, _ = query.shape
        if self._native:  # the same without a copy of keys and values
            first = self._farthest - (plan.left + queries - 1)
            table, bias = rings.kv.table(self._index), (self._u, self._v)
            return torch.ops.trunkline.attend(query, table, plan.kv_read, plan.hidden, *bias, self._positions, first)
        kv = rings.kv.read(self._index, plan.kv_read).view(batch, -1, 2, self._heads, self._head)
        keys = kv.shape[1]
        columns = keys + queries - 1
        first = self._farthest - (plan.left + queries - 1)
        near = (query + self._v).view(batch * queries, self._heads, self._head).transpose(0, 1)
        near = torch.bmm(near, self._positions[:, :, first : first + columns])
        bias = near.as_strided(
            (batch, self._heads, queries, keys),
            (queries * columns, batch * queries * columns, columns - 1, 1),
            queries - 1,
        ).masked_fill(plan.hidden, HIDDEN)
        content = (query + self._u).view(batch, queries, self._heads, self._head).transpose(1, 2)
        seen = F.scaled_dot_product_attention(
            content, kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2), attn_mask=bias, scale=1.0
        )
        return seen.transpose(1, 2).reshape(batch, queries, self._width)

    def _convolve(self, plan: LayerPlan, rings: Rings) -> Tensor:
        window = rings.conv.read(self._index, plan.conv_read)
        if plan.conv_valid is not None:
            window = window * plan.conv_valid
        return self._depthwise(window)


class _FeedForward:
    """x + half of the feed-forward module's output."""

    def __init__(self, norm: Any, feed: Any, dtype: torch.dtype) -> None:
        self._expand = Linear(*affine(feed.linear1), dtype, norm=Norm.of(norm, dtype), after="silu")
        weight, bias = affine(feed.linear2)
        self._contract = Linear(weight / 2, None if bias is None else bias / 2, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        return self._contract(self._expand(x), x)


class Depthwise:
    """A depthwise convolution over (B, T + taps - 1, width), giving (B, T, width).

    On a processor in float32 it is written out, which takes less time than oneDNN at every size that a step has
    (`make bench-depthwise`).
    """

    def __init__(self, kernel: Tensor, shift: Tensor | None) -> None:
        """kernel: (width, 1, taps)."""
        self._affine = kernel, shift
        self._taps = kernel[:, 0].t().contiguous()
        self._written_out = kernel.device.type == "cpu" and kernel.dtype == torch.float32

    def __call__(self, window: Tensor) -> Tensor:
        batch, frames, width = window.shape
        taps = len(self._taps)
        outputs = frames - taps + 1
        if not self._written_out or outputs < 1:
            return F.conv1d(window.transpose(1, 2), *self._affine, groups=width).transpose(1, 2)
        shift = self._affine[1]
        if batch * outputs * width <= AT_ONCE:
            row, frame, column = window.stride()
            windows = window.as_strided((batch, outputs, taps, width), (row, frame, frame, column))
            x = (windows * self._taps).sum(2)
            return x if shift is None else x.add_(shift)
        x = window[:, :outputs] * self._taps[0]
        for place in range(1, taps):
            x.addcmul_(window[:, place : place + outputs], self._taps[place])
        return x if shift is None else x.add_(shift)


def _pointwise(module: Any) -> Affine:
    weight, bias = affine(module)
    return weight[:, :, 0], bias


def _fold(norm: Any, kernel: Tensor, shift: Tensor | None) -> tuple[Tensor, Tensor]:
    """A batch norm in eval mode after a convolution is another convolution."""
    if hasattr(norm, "running_var"):
        scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        offset = norm.bias.detach() - norm.running_mean * scale
    else:  # NeMo's FusedBatchNorm1d: an affine map
        scale, offset = norm.weight.detach(), norm.bias.detach()
    return kernel * scale[:, None, None], offset if shift is None else shift * scale + offset
