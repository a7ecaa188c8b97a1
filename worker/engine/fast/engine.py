"""The fast engine: Trunkline's own encoder step behind the engine interface.

The host's part: how many frames each row enters, in how many passes, and what leaves the encoder. The device's part is
`step.py`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.engine.batched import BatchedEngine, Counts
from worker.engine.fast.buckets import Buckets
from worker.engine.fast.plan import Progress, exact_shape
from worker.engine.fast.recorder import Recorder
from worker.engine.fast.step import ENDLESS, EncoderStep, PassShape
from worker.engine.interface import Mode, Row
from worker.engine.model import SpeechModel
from worker.engine.ragged import join, valid

# Encoder frames of a row in one pass: more make the arithmetic denser when a stream catches up, and every ring longer.
MAX_FRAMES = 28


class FastEngine(BatchedEngine):
    """Exact like the reference engine, without computing anything twice.

    `dtype` float32 or bfloat16 is that of weights and caches; features are always float32. With `buckets`, passes are
    rounded up to few static shapes, which CUDA graphs need (the default where there is CUDA); without, they are as
    small as the batch allows, and on a processor `warm_up` records those of live calls.
    """

    def __init__(
        self,
        model: SpeechModel,
        slots: int,
        dtype: torch.dtype = torch.float32,
        max_frames: int = MAX_FRAMES,
        buckets: bool | None = None,
    ) -> None:
        super().__init__(model, slots)
        self._max_frames = max(max_frames, max(model.left_context) + 1)
        self._step = EncoderStep(model, self._arenas, self._features.bands, dtype, self._max_frames)
        self._recorder = Recorder(self._step, self._arenas.scratch)
        self._buckets: Buckets | None = None
        if buckets if buckets is not None else self._device.type == "cuda":
            self._buckets = Buckets(self._step, slots, self._arenas.scratch, self._device)
        self._counters["inputs"] = np.zeros(slots, np.int64)  # encoder frames that entered the first layer
        self._counters["mels"] = np.zeros(slots, np.int64)

    @torch.inference_mode()
    def warm_up(self, mode: Mode, batch: int) -> None:
        super().warm_up(mode, batch)
        if self._buckets is not None:
            for ends in (False, True):
                self._buckets.prepare(mode.look_ahead, batch, ends, self._pass_frames(mode, ends))
        elif self._device.type == "cpu":
            self._recorder.prepare(mode.look_ahead, batch)

    def _encode(
        self, mode: Mode, rows: Sequence[Row], slots: Counts, index: Tensor, mels: Tensor, fresh: Counts
    ) -> tuple[Tensor, Counts]:
        factor = self._step.subsampling.factor
        done = self._counters["inputs"][slots]
        total = self._counters["mels"][slots] + fresh
        last = np.array([row.last for row in rows])
        shift, frames = self._plan(slots, fresh)
        self._counters["mels"][slots] = total
        self._counters["inputs"][slots] = done + frames
        mels = self._place(mels, shift, max(1, int(frames.max())) * factor)
        limit = self._pass_frames(mode, bool(last.any()))
        pieces: list[Tensor] = []
        counts: list[Counts] = []
        passes = max(1, -(-int(frames.max()) // limit))
        for number in range(passes):
            part = np.clip(frames - number * limit, 0, limit)
            # a row ends in the pass that takes its last frame; one with no frame at all, in the first
            ends = last & (np.maximum(-(-frames // limit), 1) == number + 1)
            before = done + np.minimum(frames, number * limit)
            piece, emitted = self._pass(
                mode,
                mels[:, number * limit * factor : (number * limit + max(1, int(part.max()))) * factor],
                np.stack([slots, before, part, ends, np.where(ends, total, ENDLESS)]),
            )
            # a later pass of the same bucket overwrites this one's frames
            pieces.append(piece if passes == 1 else piece.clone())
            counts.append(emitted)
        return self._assemble(pieces, counts)

    def _pass(self, mode: Mode, mels: Tensor, numbers: Counts) -> tuple[Tensor, Counts]:
        """Sub-sampling and all layers for the next frames of each row; `numbers` as in `step.py`."""
        slots, done, frames, last, _ = numbers
        context, depth = self._step.contexts[mode.look_ahead], self._step.depth
        if not frames.any() and not context.wait:
            return mels.new_zeros(len(slots), 0, self._step.out_width), frames
        self.calls["encoder"] += 1
        progress = Progress(done, done + frames, last)
        first, past = progress.span(depth * context.wait)
        if self._buckets is not None:
            # a pass that ends no segment, of a step that does, has a bucket of those steps that end none
            ends = bool(last.any())
            limit = self._pass_frames(mode, ends)
            shape = self._buckets.shape(mode.look_ahead, len(slots), max(1, int(frames.max())), ends, limit)
            encoded = self._buckets(shape, mels, torch.from_numpy(numbers))
        else:
            edges = bool(last.any() or (done == 0).any())
            shape = PassShape(mode.look_ahead, len(slots), exact_shape(context, depth, progress), edges)
            encoded = self._recorder(shape, mels, self._to_device(numbers))
        return encoded[: len(slots)], past - first

    def _place(self, mels: Tensor, shift: Counts, size: int) -> Tensor:
        """Mel frames in a tensor of `size`, fresh streams after the frames that never were."""
        if shift.any():
            head = mels.new_zeros(len(mels), int(shift.max()), mels.shape[2])
            length = self._to_device(shift)
            placed = join(head, length, torch.cat([mels, mels.new_zeros(len(mels), 1, mels.shape[2])], 1), size)
            return placed.masked_fill(~valid(length + mels.shape[1], size)[:, :, None], 0.0)
        return torch.nn.functional.pad(mels, (0, 0, 0, size - mels.shape[1]))

    def _assemble(self, pieces: list[Tensor], counts: list[Counts]) -> tuple[Tensor, Counts]:
        """The passes' emitted frames of each row, one after the other."""
        encoded, emitted = pieces[0], counts[0]
        for piece, count in zip(pieces[1:], counts[1:], strict=True):
            encoded = join(encoded, self._to_device(emitted), piece, int((emitted + count).max()))
            emitted = emitted + count
        return encoded[:, : int(emitted.max())], emitted

    def _pass_frames(self, mode: Mode, ends: bool) -> int:
        """The most frames of a row in one pass, whole chunks. Rings have room for the frames that come late at a
        segment's end: where none ends, that room is for a long first chunk."""
        chunk = self.info.geometry.chunk_frames(mode.look_ahead)
        return (self._max_frames if ends else self._step.burst) // chunk * chunk

    def _plan(self, slots: Counts, fresh: Counts) -> tuple[Counts, Counts]:
        """Mel frames to put before each row's, and the encoder frames it enters.

        Mel frames are counted from 1 - factor here (see subsampling.py): a fresh stream has those to take first.
        """
        factor = self._step.subsampling.factor
        shift = np.where((self._counters["mels"][slots] == 0) & (fresh > 0), factor - 1, 0)
        return shift, -(-(fresh + shift) // factor)

    def _check(self, mode: Mode, rows: Sequence[Row], slots: Counts, fresh: Counts) -> None:
        shift, frames = self._plan(slots, fresh)
        chunk = self._step.contexts[mode.look_ahead].chunk or 1
        after = self._counters["inputs"][slots] + frames
        cut = ((fresh + shift) % self._step.subsampling.factor != 0) | (after % chunk != 0)
        for b in np.flatnonzero(cut & [not row.last for row in rows]).tolist():
            raise ValueError(f"slot {rows[b].slot}: {len(rows[b].samples)} samples end between two chunks")


def unknown(model: SpeechModel) -> list[str]:
    """What the fast step does not compute as NeMo does; such a model is for the reference engine."""
    found = []
    for layer in model.encoder.layers:
        if layer.conv.pointwise_activation != "glu_":
            found.append(f"pointwise activation {layer.conv.pointwise_activation!r}")
        activations = {type(feed.activation).__name__ for feed in (layer.feed_forward1, layer.feed_forward2)}
        found.extend(f"feed-forward activation {name}" for name in activations - {"Swish", "SiLU"})
        if layer.is_adapter_available():
            found.append("adapters")
    return sorted(set(found))
