"""NeMo's encoder, one cached step for rows of different length, with the fixed cache update patched in.

The patch is on instances: a stock model of the same class runs beside it in one process.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from worker.engine.cache import advance
from worker.engine.ragged import window


@dataclass(slots=True)
class _Step:
    """What the patched modules need to know of the step under way."""

    keep: Tensor | None = None  # (B,) frames that enter the caches


class FixedEncoder:
    """The cached step of one NeMo ConformerEncoder under the fixed update.

    `keep[b] = emitted[b]` at every layer: the frames of row b that its caller will read. The mel window of a row
    starts with the past frames that exist (at most `past_size`), never zeros, and their `1 + (past - 1) //
    subsampling` encoder frames are dropped: so the stream lies on the grid of the offline forward from its first
    frame on.
    """

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.subsampling = int(encoder.subsampling_factor)
        self.layers = len(encoder.layers)
        self.width = int(encoder.d_model)
        self.out_width = self.width if encoder.out_proj is None else int(encoder.out_proj.out_features)
        self.conv_left = int(encoder.conv_context_size[0])
        # one frame and a full subsampling period cover the receptive field of the strided convolutions
        self.past_size = 1 + self.subsampling
        self._step = _Step()
        for layer in encoder.layers:
            _patch(layer, self._step)

    def frames(self, mels: int, past: int) -> int:
        """New encoder frames of a window of `mels` frames, the first `past` of them seen before."""
        if mels == past:
            return 0
        return -(-(mels - 1) // self.subsampling) + 1 - self.dropped(past)

    def dropped(self, past: int) -> int:
        return 1 + (past - 1) // self.subsampling if past else 0

    def __call__(
        self,
        mels: Tensor,
        mel_length: Tensor,
        dropped: Tensor,
        frames: Tensor,
        keep: Tensor,
        context: tuple[int, int],
        channel: Tensor,
        time: Tensor,
        cached: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        mels (B, M, bands) left-aligned with mel_length (B,); dropped, frames, keep (B,): pre-encoded frames to drop,
        new frames, frames to keep; context: (left, right) frames; channel (B, layers, left, D) and time
        (B, layers, D, conv_left): caches, newest last; cached (B,): how many channel frames are valid. Returns encoded
        (B, T, out_width) and the two caches, advanced.
        """
        encoder = self.encoder
        size = int(frames.max())
        embedded, _ = encoder.pre_encode(x=mels, lengths=mel_length)
        embedded = window(embedded, dropped, size)
        # global to the model, hence set before each step
        encoder.att_context_size = list(context)
        encoder.streaming_cfg.last_channel_cache_size = context[0]
        encoder.update_max_seq_length(size + context[0], embedded.device)
        self._step.keep = keep
        try:
            encoded, _, channel, time, _ = encoder.forward_internal(
                embedded,
                frames,
                cache_last_channel=channel.transpose(0, 1),
                cache_last_time=time.transpose(0, 1),
                cache_last_channel_len=cached,
                bypass_pre_encode=True,
            )
        finally:
            self._step.keep = None
        return encoded.transpose(1, 2), channel.transpose(0, 1), time.transpose(0, 1)


def _patch(layer: Any, step: _Step) -> None:
    """Replace the two cache updates of one conformer layer by the fixed one."""
    convolution = layer.conv.depthwise_conv
    stock_attention, stock_convolution = layer.self_attn.update_cache, convolution.update_cache

    def attention_update(self: Any, key: Tensor, value: Tensor, query: Tensor, cache: Tensor | None) -> Any:
        if cache is None or step.keep is None:
            return stock_attention(key, value, query, cache)
        key = torch.cat([cache, key], dim=1)
        return key, key, query, advance(cache, query, step.keep)

    def convolution_update(self: Any, x: Tensor, cache: Tensor | None = None) -> Any:
        if cache is None or step.keep is None:
            return stock_convolution(x, cache)
        padded = torch.nn.functional.pad(torch.cat([cache, x], dim=-1), (0, self._right_padding))
        return padded, advance(cache.transpose(1, 2), x.transpose(1, 2), step.keep).transpose(1, 2)

    layer.self_attn.update_cache = MethodType(attention_update, layer.self_attn)
    convolution.update_cache = MethodType(convolution_update, convolution)
