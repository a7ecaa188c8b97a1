"""NeMo's own cached step, driven as exactly as its interface allows: whole chunks on the grid of the offline
forward, from precomputed features, without NeMo's audio buffer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.inference_mode()
def stream(
    encoder: Any,
    mels: Sequence[Tensor],
    context: tuple[int, int],
    chunks: Sequence[int] | None = None,
    past: int = 9,
    dropped: int = 2,
    zeros_before_start: bool = True,
) -> list[Tensor]:
    """Encoder output (T, D) of each row of `mels` (T, bands), by `cache_aware_stream_step`.

    chunks: how many chunks each row takes in every step; the steps end with the first row that does. past and
    dropped: mel frames of pre-encode context and pre-encoded frames to drop, from the second step on. Where fewer
    mel frames exist, NeMo puts zeros before the stream's start; without `zeros_before_start` the existing ones are
    used and as many frames dropped as they make.
    """
    chunks = chunks or [1] * len(mels)
    encoder.att_context_size = list(context)
    encoder.setup_streaming_params(att_context_size=list(context))
    config = encoder.streaming_cfg
    emits = config.valid_out_len  # frames that a chunk emits
    ahead = config.cache_drop_size
    factor = encoder.subsampling_factor
    caches = encoder.get_initial_cache_state(batch_size=len(mels))
    out: list[list[Tensor]] = [[] for _ in mels]
    step, more = 0, True
    while more:
        windows, drop = [], 0
        for mel, count in zip(mels, chunks, strict=True):
            first = step * count * emits
            begin = 1 + factor * (first - 1) if first else 0
            end = factor * ((step + 1) * count * emits - 1 + ahead) + 1
            more = more and end < len(mel)
            window = mel[begin:end]
            if first:
                have = min(past, begin)
                window = torch.cat([mel[begin - have : begin], window])
                drop = dropped
                if have < past and zeros_before_start:
                    window = torch.cat([window.new_zeros(past - have, window.shape[1]), window])
                elif have < past:
                    drop = 1 + (have - 1) // factor
            windows.append(window)
        length = torch.tensor([len(window) for window in windows])
        batch = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).transpose(1, 2)
        encoded, frames, *caches = encoder.cache_aware_stream_step(
            processed_signal=batch,
            processed_signal_length=length,
            cache_last_channel=caches[0],
            cache_last_time=caches[1],
            cache_last_channel_len=caches[2],
            keep_all_outputs=True,
            drop_extra_pre_encoded=drop,
        )
        for b, row in enumerate(out):
            row.append(encoded[b, :, : int(frames[b])].T)
        step += 1
    return [torch.cat(row) for row in out]
