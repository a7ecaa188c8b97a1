"""The reference engine: NeMo's forward with the fixed cache update, batched over slots.

    audio tail + new samples -> log-mel -> mel tail + new frames -> encoder with caches -> greedy decoder
        (arena)                               (arena)                 (arenas)             (arenas)

All of a stream's device state lies in arenas indexed by slot; a step gathers the rows' state, runs, and scatters
it back. It is the oracle of the tests and serves models that a faster engine does not know.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.engine.arenas import Arenas
from worker.engine.decoders import CtcDecoder, Decoder, RnntDecoder
from worker.engine.encoder import FixedEncoder
from worker.engine.features import LogMel
from worker.engine.interface import Mode, Row, SlotState, Tokens
from worker.engine.model import SpeechModel
from worker.engine.ragged import join, valid, window

MAX_SYMBOLS_PER_FRAME = 10  # NeMo's usual bound; a model's own setting goes before


class ReferenceEngine:
    """`worker.engine.interface.Engine` on NeMo's own modules."""

    def __init__(self, model: SpeechModel, slots: int) -> None:
        self.info = model.info
        self.slots = slots
        self.calls = {"encoder": 0, "decoder": 0}
        self._model = model
        self._device = model.device
        self._features = LogMel(model.featurizer, model.device)
        self._encoder = FixedEncoder(model.encoder)
        self._decoders = _decoders(model)
        self._arenas = Arenas(slots, model.device)
        self._modes: list[Mode | None] = [None] * slots
        # per slot: samples in the audio tail, frames in the mel tail, encoder frames emitted
        self._tail = np.zeros(slots, dtype=np.int64)
        self._mels = np.zeros(slots, dtype=np.int64)
        self._frames = np.zeros(slots, dtype=np.int64)
        left = max(model.left_context.values())
        lookahead = max(model.info.geometry.recompute.values())
        self._arenas.add("audio", torch.zeros(self._features.tail_size))
        mel_tail = self._encoder.past_size + self._encoder.subsampling * lookahead
        self._arenas.add("mel", torch.zeros(mel_tail, self._features.bands))
        self._arenas.add("channel", torch.zeros(self._encoder.layers, left, self._encoder.width))
        self._arenas.add("time", torch.zeros(self._encoder.layers, self._encoder.width, self._encoder.conv_left))
        for decoder in self._decoders.values():
            decoder.add_state(self._arenas)

    def open(self, slot: int, mode: Mode) -> None:
        if mode.look_ahead not in self.info.look_aheads or mode.decoder not in self.info.decoders:
            raise ValueError(f"{mode} is not one of {self.info.look_aheads} x {self.info.decoders}")
        self._modes[slot] = mode
        self._reset([slot])

    def bytes_per_slot(self) -> int:
        return self._arenas.bytes_per_slot()

    def save(self, slot: int) -> SlotState:
        mode = self._modes[slot]
        if mode is None:
            raise ValueError(f"slot {slot} was never opened")
        counters = {"tail": self._tail[slot], "mels": self._mels[slot], "frames": self._frames[slot]}
        return SlotState(mode, {k: int(v) for k, v in counters.items()}, self._arenas.save(slot))

    def load(self, slot: int, state: SlotState) -> None:
        self._arenas.load(slot, state.tensors)
        self._modes[slot] = state.mode
        self._tail[slot] = state.counters["tail"]
        self._mels[slot] = state.counters["mels"]
        self._frames[slot] = state.counters["frames"]

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Tokens]:
        mode = self._mode(rows)
        slots = np.array([row.slot for row in rows])
        index = self._to_device(slots)
        mels, mel_length = self._listen(mode, rows, slots, index)
        encoded, emitted = self._encode(mode, rows, slots, index, mels, mel_length)
        self.calls["decoder"] += 1
        tokens = self._decoders[mode.decoder](encoded, self._to_device(emitted), index, self._arenas)
        before = self._frames[slots]
        self._frames[slots] = before + emitted
        for result, first, heard in zip(tokens, before.tolist(), self._frames[slots].tolist(), strict=True):
            result.frames = [first + frame for frame in result.frames]
            result.heard = heard
        self._reset([row.slot for row in rows if row.last])
        return tokens

    def _mode(self, rows: Sequence[Row]) -> Mode:
        modes = {self._modes[row.slot] for row in rows}
        if len(modes) != 1 or None in modes:
            raise ValueError(f"a step needs rows of one mode, found {modes}")
        if len({row.slot for row in rows}) != len(rows):
            raise ValueError("a slot is named twice in one step")
        mode = modes.pop()
        assert mode is not None
        return mode

    def _listen(
        self, mode: Mode, rows: Sequence[Row], slots: np.ndarray, index: Tensor
    ) -> tuple[Tensor, np.ndarray]:
        """Live features: each row's window of mel frames (kept tail, then new), left-aligned, and its length."""
        tail = self._tail[slots]
        length = tail + [len(row.samples) for row in rows]
        frames = np.array([self._features.frames(int(n), row.last) for n, row in zip(length, rows, strict=True)])
        before = self._mels[slots]
        total = before + frames
        self._check_alignment(mode, rows, total, self._frames[slots] + self._plan(mode, rows, slots, total)[1])
        signal = np.zeros((len(rows), max(int(length.max()), self._features.tail_size)), dtype=np.float32)
        for b, row in enumerate(rows):
            signal[b, tail[b] : length[b]] = row.samples
        audio = torch.from_numpy(signal).to(self._device)
        audio[:, : self._features.tail_size] += self._arenas.gather("audio", index)
        mel, rest = self._features(audio, self._to_device(length), self._to_device(frames))
        self._arenas.scatter("audio", index, rest)
        self._tail[slots] = length - frames * self._features.hop
        # at least one column, for rows too short for a frame
        width = max(1, int(total.max()))
        joined = join(self._arenas.gather("mel", index), self._to_device(before), mel, width)
        return joined, total

    def _encode(
        self,
        mode: Mode,
        rows: Sequence[Row],
        slots: np.ndarray,
        index: Tensor,
        mels: Tensor,
        mel_length: np.ndarray,
    ) -> tuple[Tensor, np.ndarray]:
        """Encoder frames (B, T, D) and how many of each row are emitted; mel tail and caches advance."""
        done = self._frames[slots]
        past = self._past(done)
        frames, emitted = self._plan(mode, rows, slots, mel_length)
        size = int(frames.max())
        if size == 0:
            encoded = mels.new_zeros(len(rows), 0, self._encoder.width)
        else:
            left = self._model.left_context[mode.look_ahead]
            channel = self._arenas.gather("channel", index)
            self.calls["encoder"] += 1
            encoded, fresh, time = self._encoder(
                mels=mels.masked_fill(~valid(self._to_device(mel_length), mels.shape[1])[:, :, None], 0.0),
                mel_length=self._to_device(mel_length),
                dropped=self._to_device(np.array([self._encoder.dropped(int(p)) for p in past])),
                frames=self._to_device(frames),
                keep=self._to_device(emitted),
                context=(left, mode.look_ahead),
                channel=channel[:, :, channel.shape[2] - left :],
                time=self._arenas.gather("time", index),
                cached=self._to_device(np.minimum(done, left)),
            )
            channel[:, :, channel.shape[2] - left :] = fresh
            self._arenas.scatter("channel", index, channel)
            self._arenas.scatter("time", index, time)
        # the next window starts with the past frames of the first encoder frame not yet emitted
        first = self._window_start(done + emitted) - self._window_start(done)
        kept = np.where([row.last for row in rows], 0, mel_length - first)
        tail = window(mels, self._to_device(first), self._arenas.gather("mel", index[:1]).shape[1])
        self._arenas.scatter("mel", index, tail)
        self._mels[slots] = kept
        return encoded, emitted

    def _plan(
        self, mode: Mode, rows: Sequence[Row], slots: np.ndarray, mel_length: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encoder frames that each row's mel window gives, and how many of them it emits."""
        past = self._past(self._frames[slots])
        frames = np.array([self._encoder.frames(int(m), int(p)) for m, p in zip(mel_length, past, strict=True)])
        again = self.info.geometry.recompute[mode.look_ahead]
        return frames, np.where([row.last for row in rows], frames, np.maximum(frames - again, 0))

    def _past(self, done: np.ndarray) -> np.ndarray:
        """Mel frames already seen that the next window starts with, after `done` encoder frames."""
        seen = np.where(done > 0, 1 + self._encoder.subsampling * (done - 1), 0)
        return np.minimum(seen, self._encoder.past_size)

    def _window_start(self, done: np.ndarray) -> np.ndarray:
        """Index, in the segment, of the first mel frame of the window after `done` encoder frames."""
        seen = np.where(done > 0, 1 + self._encoder.subsampling * (done - 1), 0)
        return seen - self._past(done)

    def _check_alignment(self, mode: Mode, rows: Sequence[Row], mel_length: np.ndarray, done: np.ndarray) -> None:
        """A step that ends between two chunks would compute frames without their look-ahead.

        Comes before any state changes, so that a refused step harms no stream.
        """
        chunk = self.info.geometry.chunk_frames(mode.look_ahead)
        for row, mels, frames in zip(rows, mel_length, done, strict=True):
            if row.last or not mels:
                continue
            if (mels - 1) % self._encoder.subsampling or (self._model.style == "chunked_limited" and frames % chunk):
                raise ValueError(f"slot {row.slot}: {len(row.samples)} samples end between two chunks")

    def _reset(self, slots: list[int]) -> None:
        if slots:
            self._arenas.reset(self._to_device(np.array(slots)))
            self._tail[slots] = self._features.lead
            self._mels[slots] = 0
            self._frames[slots] = 0

    def _to_device(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(self._device)


def _decoders(model: SpeechModel) -> dict[str, Decoder]:
    nemo = model.nemo
    made: dict[str, Decoder] = {}
    if "rnnt" in model.info.decoders:
        greedy = nemo.cfg.decoding.get("greedy") or {}
        made["rnnt"] = RnntDecoder(nemo.decoder, nemo.joint, greedy.get("max_symbols") or MAX_SYMBOLS_PER_FRAME)
    if "ctc" in model.info.decoders:
        made["ctc"] = CtcDecoder(nemo.ctc_decoder if hasattr(nemo, "ctc_decoder") else nemo.decoder)
    return made
