"""Playing streams through an engine, and what NeMo makes of the same audio offline."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.engine.arenas import Arenas
from worker.engine.batched import BatchedEngine
from worker.engine.interface import Mode, Row, Tokens

Samples = NDArray[np.float32]


def poison(arenas: Arenas, slot: int) -> None:
    """Fill a freed slot with NaN (largest value for integers), which would reach whatever reads it."""
    for arena in arenas._arena.values():
        arena[slot].fill_(float("nan") if arena.is_floating_point() else torch.iinfo(arena.dtype).max)


@torch.inference_mode()
def offline_mels(nemo: Any, samples: Samples) -> Tensor:
    """(T, bands) features of NeMo's own preprocessor over the whole signal."""
    if not len(samples):  # NeMo fails on these
        return torch.zeros(0, nemo.preprocessor.featurizer.nfilt)
    mel, length = nemo.preprocessor(
        input_signal=torch.from_numpy(np.ascontiguousarray(samples))[None], length=torch.tensor([len(samples)])
    )
    return mel[0, :, : int(length[0])].T


@torch.inference_mode()
def offline(nemo: Any, samples: Samples, context: tuple[int, int]) -> Tensor:
    """(T, D) output of NeMo's own encoder over the whole signal, under the mask of (left, right) frames."""
    mel = offline_mels(nemo, samples)
    if len(mel) == 0:
        return mel.new_zeros(0, nemo.encoder._feat_out)
    nemo.encoder.att_context_size = list(context)
    encoded, length = nemo.encoder(audio_signal=mel.T[None], length=torch.tensor([len(mel)]))
    return encoded[0, :, : int(length[0])].T


def difference(got: Tensor, expected: Tensor) -> float:
    """Largest difference of two (T, D) tensors that must have the same number of frames."""
    assert got.shape == expected.shape
    return float((got - expected).abs().max()) if got.numel() else 0.0


@dataclass(eq=False)
class Take:
    """One segment on its way through the engine, and what came out of it."""

    slot: int
    samples: Samples
    mode: Mode
    position: int = 0
    chunk: int = 0
    empty_end: bool = False  # a segment that ends just with a chunk ends in a row without samples
    ended: bool = False
    encoded: list[Tensor] = field(default_factory=list)
    tokens: Tokens = field(default_factory=Tokens)

    @property
    def frames(self) -> Tensor:
        """(T, D) encoder frames emitted so far."""
        return torch.cat(self.encoded)


class Player:
    """Feeds takes to an engine in whole chunks and keeps what each one gets."""

    def __init__(self, engine: BatchedEngine) -> None:
        self.engine = engine
        self._takes: dict[int, Take] = {}

    def start(self, slot: int, samples: Samples, mode: Mode, opened: bool = False, empty_end: bool = False) -> Take:
        """A new stream in a slot full of NaN or, if the slot is `opened` already, the stream's next segment."""
        if not opened:
            poison(self.engine._arenas, slot)
            poison(self.engine._arenas, self.engine._arenas.scratch)
            self.engine.open(slot, mode)
        take = self._takes[slot] = Take(slot, samples, mode, empty_end=empty_end)
        return take

    def move(self, take: Take, slot: int) -> None:
        """Save a slot, spoil it, and go on in another one."""
        state = self.engine.save(take.slot)
        del self._takes[take.slot]
        poison(self.engine._arenas, take.slot)
        poison(self.engine._arenas, slot)
        self.engine.load(slot, state)
        take.slot = slot
        self._takes[slot] = take

    def step(self, chunks: Mapping[Take, int]) -> None:
        """One engine step in which each take advances by so many chunks, or to its end.

        A take whose audio ends just with a chunk ends in this step or, with its `empty_end`, in a later one that has
        no samples.
        """
        rows = [self._row(take, count) for take, count in chunks.items()]
        if not rows:
            return
        with self._recording():
            results = self.engine.step(rows)
        for take, result in zip(chunks, results, strict=True):
            take.tokens.ids += result.ids
            take.tokens.frames += result.frames
            take.tokens.confidences += result.confidences
            take.tokens.heard = result.heard

    def finish(self, takes: list[Take], chunks: int = 1) -> None:
        while live := [take for take in takes if not take.ended]:
            self.step(dict.fromkeys(live, chunks))

    def _row(self, take: Take, count: int) -> Row:
        end = self.engine.info.geometry.chunk_end(take.mode.look_ahead, take.chunk + count - 1)
        take.ended = end > len(take.samples) or (end == len(take.samples) and not take.empty_end)
        row = Row(take.slot, take.samples[take.position : len(take.samples) if take.ended else end], take.ended)
        take.position = min(end, len(take.samples))
        take.chunk += count
        return row

    @contextmanager
    def _recording(self) -> Iterator[None]:
        """Hand each take the encoder frames of its row, on their way to the decoder."""
        real = self.engine._encode

        def encode(mode: Mode, rows: Any, *rest: Any) -> tuple[Tensor, NDArray[np.int64]]:
            encoded, emitted = real(mode, rows, *rest)
            for b, row in enumerate(rows):
                self._takes[row.slot].encoded.append(encoded[b, : int(emitted[b])].clone())
            return encoded, emitted

        with patch.object(self.engine, "_encode", encode):
            yield


def play(engine: BatchedEngine, signals: Sequence[Samples], mode: Mode, chunks: int = 1) -> list[Take]:
    """All signals from start to end, as many at once as the engine has slots."""
    player = Player(engine)
    takes: list[Take] = []
    for first in range(0, len(signals), engine.slots):
        group = signals[first : first + engine.slots]
        started = [player.start(slot, samples, mode) for slot, samples in enumerate(group)]
        player.finish(started, chunks)
        takes += started
    return takes
