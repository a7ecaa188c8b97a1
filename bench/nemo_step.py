"""NeMo's streaming step driven as its own example and pipelines drive it, stock or with the fixed cache update.

Windows are those of NeMo's audio buffer: zeros before the start where pre-encode context is missing, outputs that a
later step computes again cut off, a last window of under eight new mel frames dropped. After its first window that is
not full a stream ends: in `regular` NeMo's buffer goes on with shorter ones, and the step then fails, since the
convolution cache comes out empty. Rows of one batch are equally far; a row's last window is a step of its own. Stock
and fixed differ in nothing but what enters the caches.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from worker.engine.encoder import FixedEncoder

CORRECT = 9  # mel frames of pre-encode context, as NeMo's streaming configuration has it
LEAST = 8  # new mel frames of a last window


@dataclass
class Run:
    """What came out: encoder frames (T, width) of each row, and processor seconds of every step but the rows' last."""

    encoded: list[Tensor]
    seconds: list[float] = field(default_factory=list)


class NemoStep:
    """One encoder and one way to drive it. With `fixed` the encoder is patched for good."""

    def __init__(self, encoder: Any, context: tuple[int, int], past: int, fixed: bool) -> None:
        """context: (left, right) of attention. Each step emits right + 1 frames, in `regular` too, where NeMo's
        default of one frame would compute every frame as often as there is look-ahead."""
        self._encoder = encoder
        self._context = list(context)
        self._past = past
        self._fixed = FixedEncoder(encoder) if fixed else None
        self._factor = int(encoder.subsampling_factor)

    def _prepare(self) -> tuple[int, int]:
        """Frames that a step emits, and frames that it computes ahead of them. Global to the model."""
        encoder, right = self._encoder, self._context[1]
        encoder.set_default_att_context_size(self._context)
        encoder.setup_streaming_params(att_context_size=self._context)
        ahead = int(encoder.streaming_cfg.cache_drop_size)
        if encoder.att_context_style == "regular":
            emits = right + 1
            encoder.setup_streaming_params(
                chunk_size=ahead + emits, shift_size=emits, left_chunks=None, att_context_size=self._context
            )
        return int(encoder.streaming_cfg.valid_out_len), ahead

    def stream(self, mels: Sequence[Tensor]) -> Run:
        *_, run = self.steps(mels)
        return run

    def steps(self, mels: Sequence[Tensor]) -> Iterator[Run]:
        """All of each row (T, bands), one step at a time. Yields one and the same run, whose frames come at the end."""
        emits, ahead = self._prepare()
        caches = self._encoder.get_initial_cache_state(batch_size=len(mels))
        left = caches[0].shape[2]
        rows = list(range(len(mels)))
        parts: list[list[Tensor]] = [[] for _ in mels]
        run = Run([])
        following = caches
        done = 0
        while rows:
            begin = 1 + self._factor * (done - 1) if done else 0
            end = 1 + self._factor * (done + emits + ahead - 1)
            going = [place for place, row in enumerate(rows) if len(mels[row]) > end]
            ending = [place for place, row in enumerate(rows) if begin + LEAST <= len(mels[row]) <= end]
            for places, last in ((going, False), (ending, True)):
                if not places:
                    continue
                chosen = [rows[place] for place in places]
                windows = [self._window(mels[row], begin, end) for row in chosen]
                mine = [caches[0][:, places], caches[1][:, places], caches[2][places]]
                began = time.thread_time()
                encoded, frames, advanced = self._step(windows, mine, bool(done), emits, last, left)
                if not last:
                    run.seconds.append(time.thread_time() - began)
                    following = advanced
                for place, row in enumerate(chosen):
                    parts[row].append(encoded[place, :, : int(frames[place])].T)
            rows = [rows[place] for place in going]
            caches = following
            done += emits
            yield run
        width = self._encoder._feat_out
        run.encoded.extend(torch.cat(part) if part else torch.zeros(0, width) for part in parts)

    def _window(self, mel: Tensor, begin: int, end: int) -> Tensor:
        window = mel[max(0, begin - self._past) : end]
        missing = self._past - begin
        if begin and missing > 0:
            window = torch.cat([window.new_zeros(missing, window.shape[1]), window])
        return window

    def _step(
        self, windows: list[Tensor], caches: list[Tensor], dropping: bool, emits: int, last: bool, left: int
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        length = torch.tensor([len(window) for window in windows])
        batch = torch.nn.utils.rnn.pad_sequence(windows, batch_first=True).transpose(1, 2)
        keep = torch.full((len(windows),), emits)
        if self._fixed is not None and not last:
            self._fixed._step.keep = keep
        try:
            encoded, frames, channel, convolution, cached = self._encoder.cache_aware_stream_step(
                processed_signal=batch,
                processed_signal_length=length,
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=last,
                drop_extra_pre_encoded=self._encoder.streaming_cfg.drop_extra_pre_encoded if dropping else 0,
            )
        finally:
            if self._fixed is not None:
                self._fixed._step.keep = None
        if self._fixed is not None:
            cached = (caches[2] + keep).clamp(max=left)
        return encoded, frames, [channel, convolution, cached]
