"""The reference engine: NeMo's own forward with the fixed cache update.

    log-mel -> mel tail + new frames -> NeMo's sub-sampling and layers with caches
                  (arena)                                    (arenas)

It is the oracle's nearest relative: the tests compare the fast engine with it, and it serves models that the fast one
does not know.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.engine.batched import BatchedEngine, Counts
from worker.engine.encoder import FixedEncoder
from worker.engine.interface import Mode, Row
from worker.engine.model import SpeechModel
from worker.engine.ragged import join, valid, window


class ReferenceEngine(BatchedEngine):
    """The engine interface on NeMo's modules, patched in place: the model belongs to this engine."""

    def __init__(self, model: SpeechModel, slots: int) -> None:
        super().__init__(model, slots)
        self._encoder = FixedEncoder(model.encoder)
        self._counters["mels"] = np.zeros(slots, np.int64)  # frames in the mel tail
        left = max(model.left_context.values())
        lookahead = max(model.info.geometry.recompute.values())
        mel_tail = self._encoder.past_size + self._encoder.subsampling * lookahead
        self._arenas.add("mel", torch.zeros(mel_tail, self._features.bands))
        self._arenas.add("channel", torch.zeros(self._encoder.layers, left, self._encoder.width))
        self._arenas.add("time", torch.zeros(self._encoder.layers, self._encoder.width, self._encoder.conv_left))

    def _encode(
        self, mode: Mode, rows: Sequence[Row], slots: Counts, index: Tensor, mels: Tensor, fresh: Counts
    ) -> tuple[Tensor, Counts]:
        done = self._counters["frames"][slots]
        before = self._counters["mels"][slots]
        mel_length = before + fresh
        # at least one column, for rows too short for a frame
        size = max(1, int(mel_length.max()))
        mels = join(self._arenas.gather("mel", index), self._to_device(before), mels, size)
        past = self._past(done)
        frames, emitted = self._plan(mode, rows, done, mel_length)
        if frames.max() == 0:
            encoded = mels.new_zeros(len(rows), 0, self._encoder.out_width)
        else:
            left = self._model.left_context[mode.look_ahead]
            channel = self._arenas.gather("channel", index)
            self.calls["encoder"] += 1
            encoded, kept, time = self._encoder(
                mels=mels.masked_fill(~valid(self._to_device(mel_length), size)[:, :, None], 0.0),
                mel_length=self._to_device(mel_length),
                dropped=self._to_device(np.array([self._encoder.dropped(int(p)) for p in past])),
                frames=self._to_device(frames),
                keep=self._to_device(emitted),
                context=(left, mode.look_ahead),
                channel=channel[:, :, channel.shape[2] - left :],
                time=self._arenas.gather("time", index),
                cached=self._to_device(np.minimum(done, left)),
            )
            channel[:, :, channel.shape[2] - left :] = kept
            self._arenas.scatter("channel", index, channel)
            self._arenas.scatter("time", index, time)
        # the next window starts with the past frames of the first encoder frame not yet emitted
        first = self._window_start(done + emitted) - self._window_start(done)
        tail = window(mels, self._to_device(first), self._arenas.view("mel").shape[1])
        self._arenas.scatter("mel", index, tail)
        self._counters["mels"][slots] = np.where([row.last for row in rows], 0, mel_length - first)
        return encoded, emitted

    def _check(self, mode: Mode, rows: Sequence[Row], slots: Counts, fresh: Counts) -> None:
        done = self._counters["frames"][slots]
        mel_length = self._counters["mels"][slots] + fresh
        after = done + self._plan(mode, rows, done, mel_length)[1]
        chunk = self.info.geometry.chunk_frames(mode.look_ahead) if self._model.style == "chunked_limited" else 1
        for row, mels, frames in zip(rows, mel_length, after, strict=True):
            if not row.last and mels and ((mels - 1) % self._encoder.subsampling or frames % chunk):
                raise ValueError(f"slot {row.slot}: {len(row.samples)} samples end between two chunks")

    def _plan(self, mode: Mode, rows: Sequence[Row], done: Counts, mel_length: Counts) -> tuple[Counts, Counts]:
        """Encoder frames that each row's mel window gives, and how many of them it emits."""
        past = self._past(done)
        frames = np.array([self._encoder.frames(int(m), int(p)) for m, p in zip(mel_length, past, strict=True)])
        again = self.info.geometry.recompute[mode.look_ahead]
        return frames, np.where([row.last for row in rows], frames, np.maximum(frames - again, 0))

    def _past(self, done: Counts) -> Counts:
        """Mel frames already seen that the next window starts with, after `done` encoder frames."""
        seen = np.where(done > 0, 1 + self._encoder.subsampling * (done - 1), 0)
        return np.minimum(seen, self._encoder.past_size)

    def _window_start(self, done: Counts) -> Counts:
        """Index, in the segment, of the first mel frame of the window after `done` encoder frames."""
        seen = np.where(done > 0, 1 + self._encoder.subsampling * (done - 1), 0)
        return seen - self._past(done)
