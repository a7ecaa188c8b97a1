"""One encoder step of each engine on equal input: NeMo's stock streaming step, the reference engine, the fast one.

All three take the same log-mel frames of the same streams, hold the same weights and keep their own caches. Chunks are
those of `chunked_limited`: after the first, every step of look-ahead r takes 8 (r + 1) mel frames.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from worker.engine.batched import BatchedEngine
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode, Row, Samples
from worker.engine.model import SpeechModel

NAMES = ("NeMo", "reference", "fast")
PAST = 9  # mel frames that the stock step is given again: the receptive field of sub-sampling


class Stepper(Protocol):
    """One engine at work on a batch of streams that are equally far."""

    def step(self, look_ahead: int, batch: int, begin: int, end: int) -> Tensor:
        """(batch, T, width) for the streams' mel frames [begin, end); the first `batch` advance, from 0 anew."""

    def save(self, batch: int) -> Any:
        """Copy the state of the first `batch` streams."""

    def load(self, state: Any, batch: int) -> None:
        """Write a state back into the first `batch` streams; stream i gets that of stream i modulo the saved ones."""


class Stock:
    """`cache_aware_stream_step` of an encoder that nothing has patched. mels: (streams, T, bands)."""

    def __init__(self, encoder: Any, mels: Tensor) -> None:
        for layer in encoder.layers:
            for module in (layer.self_attn, layer.conv.depthwise_conv):
                if module.update_cache.__func__ is not type(module).update_cache:
                    raise ValueError("a cache update of this encoder is patched: that is not NeMo's stock step")
        self._encoder = encoder
        self._mels = mels
        self._look_ahead: int | None = None
        self._left = {context[1]: context[0] for context in encoder.att_context_size_all}
        self._caches: Any = None

    def step(self, look_ahead: int, batch: int, begin: int, end: int) -> Tensor:
        encoder = self._encoder
        if look_ahead != self._look_ahead:
            context = [self._left[look_ahead], look_ahead]
            encoder.set_default_att_context_size(context)
            encoder.setup_streaming_params(att_context_size=context)
            self._look_ahead = look_ahead
        if begin == 0:
            self._caches = encoder.get_initial_cache_state(batch_size=batch)
        have = min(PAST, begin)
        window = self._mels[:batch, begin - have : end].transpose(1, 2)
        encoded, _, *self._caches = encoder.cache_aware_stream_step(
            processed_signal=window,
            processed_signal_length=torch.full((batch,), window.shape[2]),
            cache_last_channel=self._caches[0],
            cache_last_time=self._caches[1],
            cache_last_channel_len=self._caches[2],
            keep_all_outputs=True,
            drop_extra_pre_encoded=1 + (have - 1) // encoder.subsampling_factor if have else 0,
        )
        return encoded.transpose(1, 2)

    def save(self, batch: int) -> Any:
        return [self._caches[0][:, :batch].clone(), self._caches[1][:, :batch].clone(), self._caches[2][:batch].clone()]

    def load(self, state: Any, batch: int) -> None:
        rows = torch.arange(batch) % state[2].shape[0]
        # channel and time caches have the layers first
        self._caches = [state[0][:, rows], state[1][:, rows], state[2][rows]]


class Ours:
    """The encoder's part of an engine's step: what `BatchedEngine.step` does between features and decoder."""

    def __init__(self, engine: BatchedEngine, mels: Tensor) -> None:
        self._engine = engine
        self._mels = mels

    def step(self, look_ahead: int, batch: int, begin: int, end: int) -> Tensor:
        slots = np.arange(batch)
        rows = [Row(slot, np.zeros(0, np.float32)) for slot in range(batch)]
        fresh = np.full(batch, end - begin)
        mode = Mode(look_ahead, self._engine.info.decoders[0])
        if begin == 0:
            for slot in range(batch):
                self._engine.open(slot, mode)
        mels = self._mels[:batch, begin:end]
        encoded, emitted = self._engine._encode(mode, rows, slots, torch.from_numpy(slots), mels, fresh)
        # features and decoder of the whole step would do this
        self._engine._counters["frames"][slots] += emitted
        return encoded

    def unrecorded(self) -> AbstractContextManager[object]:
        """The fast engine without its recordings."""
        assert isinstance(self._engine, FastEngine)
        return patch.object(self._engine, "_recorder", self._engine._step)

    def save(self, batch: int) -> Any:
        return [self._engine.save(slot) for slot in range(batch)]

    def load(self, state: Any, batch: int) -> None:
        for slot in range(batch):
            self._engine.load(slot, state[slot % len(state)])


def unpatched_copy(model: SpeechModel) -> Any:
    """NeMo's encoder once more, on the same weights; to be made before an engine patches the model's own."""
    shared = {id(value): value for value in (*model.encoder.parameters(), *model.encoder.buffers())}
    return copy.deepcopy(model.encoder, shared)


def mel_frames(model: SpeechModel, signals: Sequence[Samples]) -> Tensor:
    """(B, T, bands) features of signals of equal length, by NeMo's own preprocessor."""
    audio = torch.from_numpy(np.stack(signals))
    mels, length = model.nemo.preprocessor(input_signal=audio, length=torch.full((len(audio),), audio.shape[1]))
    return mels[:, :, : int(length[0])].transpose(1, 2).contiguous()


def mels_until(frames: int) -> int:
    """Mel frames that the first `frames` encoder frames need."""
    return 1 + 8 * (frames - 1) if frames else 0
