"""What all engines share: slots, live features, the decoder, and the order of a step.

audio tail + new samples -> log-mel -> encoder with its caches -> greedy decoder
    (arena)                                (arenas)                 (arenas)
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.arenas import Arenas
from worker.engine.decoders import CtcDecoder, Decoder, RnntDecoder
from worker.engine.features import LogMel
from worker.engine.interface import Mode, Row, SlotState, Tokens
from worker.engine.model import SpeechModel

MAX_SYMBOLS_PER_FRAME = 10  # NeMo's usual bound; a model's own setting goes before

Counts = NDArray[np.int64]


class BatchedEngine(ABC):
    """`worker.engine.interface.Engine` but for the encoder.

    All of a stream's device state lies in arenas indexed by slot; a step gathers the rows' state, computes, and
    scatters it back. `calls` counts encoder and decoder calls.

    `seconds` is read on the host's clock, without waiting for the device: with CUDA a phase's work may still run when
    the phase is over, and its time is that of the phase that waits for it, mostly the decoder.
    """

    def __init__(self, model: SpeechModel, slots: int) -> None:
        self.info = model.info
        self.slots = slots
        self.calls = {"encoder": 0, "decoder": 0}
        # the tensor cores' ten bits of fraction are not enough for 1e-4; convolutions have them by default
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self.seconds = {"features": 0.0, "encoder": 0.0, "decoder": 0.0}
        self._model = model
        self._device = model.device
        self._features = LogMel(model.featurizer, model.device)
        self._decoders = _decoders(model)
        self._arenas = Arenas(slots, model.device)
        self._modes: list[Mode | None] = [None] * slots
        # small numbers per slot, on the host: samples in the audio tail, encoder frames emitted, and the encoder's own
        self._counters: dict[str, Counts] = {"tail": np.zeros(slots, np.int64), "frames": np.zeros(slots, np.int64)}
        self._arenas.add("audio", torch.zeros(self._features.tail_size))
        for decoder in self._decoders.values():
            decoder.add_state(self._arenas)

    @abstractmethod
    def _check(self, mode: Mode, rows: Sequence[Row], slots: Counts, fresh: Counts) -> None:
        """Raise ValueError for a row that ends between two chunks: its last frames would lack their look-ahead.

        Comes before any state changes, so that a refused step harms no stream.
        """

    @abstractmethod
    def _encode(
        self, mode: Mode, rows: Sequence[Row], slots: Counts, index: Tensor, mels: Tensor, fresh: Counts
    ) -> tuple[Tensor, Counts]:
        """Encoder frames (B, T, D) and how many of each row are emitted; the encoder's state advances.

        mels: (B, M, bands), the new mel frames left-aligned, zero past each row's `fresh[b]`.
        """

    def open(self, slot: int, mode: Mode) -> None:
        if mode.look_ahead not in self.info.look_aheads or mode.decoder not in self.info.decoders:
            raise ValueError(f"{mode} is not one of {self.info.look_aheads} x {self.info.decoders}")
        self._modes[slot] = mode
        self._reset([slot])

    @torch.inference_mode()
    def warm_up(self, mode: Mode, batch: int) -> None:
        """Make before the first stream what is made on first use, for steps of `mode` with up to `batch` rows."""
        self.open(0, mode)
        silence = np.zeros(self.info.geometry.chunk_end(mode.look_ahead, 1), dtype=np.float32)
        self.step([Row(0, silence, last=True)])

    def bytes_per_slot(self) -> int:
        return self._arenas.bytes_per_slot()

    def device_memory(self) -> int:
        return torch.cuda.memory_reserved(self._device) if self._device.type == "cuda" else 0

    def save(self, slot: int) -> SlotState:
        mode = self._modes[slot]
        if mode is None:
            raise ValueError(f"slot {slot} was never opened")
        counters = {name: int(values[slot]) for name, values in self._counters.items()}
        return SlotState(mode, counters, self._arenas.save(slot))

    def load(self, slot: int, state: SlotState) -> None:
        self._arenas.load(slot, state.tensors)
        self._modes[slot] = state.mode
        for name, values in self._counters.items():
            values[slot] = state.counters[name]

    @torch.inference_mode()
    def step(self, rows: Sequence[Row]) -> list[Tokens]:
        began = time.perf_counter()
        mode = self._mode(rows)
        slots = np.array([row.slot for row in rows])
        index = self._to_device(slots)
        length = self._counters["tail"][slots] + [len(row.samples) for row in rows]
        fresh = self._features.frames(length, np.array([row.last for row in rows]))
        self._check(mode, rows, slots, fresh)
        mels = self._listen(rows, slots, index, length, fresh)
        listened = time.perf_counter()
        encoded, emitted = self._encode(mode, rows, slots, index, mels, fresh)
        encoded_at = time.perf_counter()
        self.calls["decoder"] += 1
        tokens = self._decoders[mode.decoder](encoded, self._to_device(emitted), index, self._arenas)
        self.seconds["features"] += listened - began
        self.seconds["encoder"] += encoded_at - listened
        self.seconds["decoder"] += time.perf_counter() - encoded_at
        before = self._counters["frames"][slots]
        self._counters["frames"][slots] = before + emitted
        for result, first, count in zip(tokens, before.tolist(), emitted.tolist(), strict=True):
            result.frames = [first + frame for frame in result.frames]
            result.heard = first + count
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

    def _listen(self, rows: Sequence[Row], slots: Counts, index: Tensor, length: Counts, fresh: Counts) -> Tensor:
        """Live features: each row's `fresh[b]` new mel frames, left-aligned."""
        tail = self._counters["tail"][slots]
        signal = np.zeros((len(rows), max(int(length.max()), self._features.tail_size)), dtype=np.float32)
        for b, row in enumerate(rows):
            signal[b, tail[b] : length[b]] = row.samples
        audio = self._sent(torch.from_numpy(signal))
        audio[:, : self._features.tail_size] += self._arenas.gather("audio", index)
        mels, rest = self._features(audio, self._to_device(length), self._to_device(fresh), int(fresh.max()))
        self._arenas.scatter("audio", index, rest)
        self._counters["tail"][slots] = length - fresh * self._features.hop
        return mels

    def _reset(self, slots: list[int]) -> None:
        if slots:
            self._arenas.reset(self._to_device(np.array(slots)))
            for values in self._counters.values():
                values[slots] = 0
            self._counters["tail"][slots] = self._features.lead

    def _to_device(self, values: Counts) -> Tensor:
        return self._sent(torch.from_numpy(np.asarray(values, dtype=np.int64)))

    def _sent(self, tensor: Tensor) -> Tensor:
        """A host tensor on the device. CUDA copies from pinned memory without making the host wait; PyTorch keeps the
        block until the copy is done."""
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)


def _decoders(model: SpeechModel) -> dict[str, Decoder]:
    nemo = model.nemo
    made: dict[str, Decoder] = {}
    if "rnnt" in model.info.decoders:
        greedy = nemo.cfg.decoding.get("greedy") or {}
        made["rnnt"] = RnntDecoder(nemo.decoder, nemo.joint, greedy.get("max_symbols") or MAX_SYMBOLS_PER_FRAME)
    if "ctc" in model.info.decoders:
        made["ctc"] = CtcDecoder(nemo.ctc_decoder if hasattr(nemo, "ctc_decoder") else nemo.decoder)
    return made
