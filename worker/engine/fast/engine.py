"""The fast engine: Trunkline's own encoder step behind the engine interface."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worker.engine.batched import BatchedEngine, Counts
from worker.engine.fast.layer import FastLayer
from worker.engine.fast.plan import Context, Rings, make_plan
from worker.engine.fast.ring import Ring
from worker.engine.fast.subsampling import StreamingSubsampling
from worker.engine.interface import Mode, Row
from worker.engine.model import SpeechModel
from worker.engine.ragged import join, valid

# Encoder frames of a row in one pass: more make the arithmetic denser when a stream catches up, and every ring longer.
MAX_FRAMES = 28
ENDLESS = np.int64(1) << 40


class FastEngine(BatchedEngine):
    """Exact like the reference engine, without computing anything twice.

    Weights are copied out of the NeMo model, which stays as it is. `dtype` float32 or bfloat16 is that of weights and
    caches; features are always float32.
    """

    def __init__(
        self, model: SpeechModel, slots: int, dtype: torch.dtype = torch.float32, max_frames: int = MAX_FRAMES
    ) -> None:
        super().__init__(model, slots)
        encoder = model.encoder
        geometry = model.info.geometry
        self._dtype = dtype
        self._max_frames = max_frames
        self._subsampling = StreamingSubsampling(encoder.pre_encode, encoder.xscale or 1.0, self._features.bands, dtype)
        self._subsampling.add_state(self._arenas)
        width, count = int(encoder.d_model), len(encoder.layers)
        self._width = width
        conv_left, conv_right = (int(n) for n in encoder.conv_context_size)
        self._contexts: dict[int, Context] = {}
        for look_ahead, left in model.left_context.items():
            chunk = look_ahead + 1 if model.style == "chunked_limited" else None
            right = 0 if chunk else look_ahead
            self._contexts[look_ahead] = Context(left, right, chunk, conv_left, 0 if chunk else conv_right)
        left = max(model.left_context.values())
        right = max(context.right for context in self._contexts.values())
        # at a segment's end the frames that earlier layers held back arrive all at once
        burst = max(max_frames, max(model.left_context) + 1) + max(geometry.recompute.values())
        delays = max(context.right + context.conv_right for context in self._contexts.values()) > 0
        self._rings = Rings(
            kv=Ring(self._arenas, "kv", count, left + right + burst, 2 * width, dtype),
            conv=Ring(self._arenas, "conv", count, conv_left + conv_right + burst, width, dtype),
            ahead=Ring(self._arenas, "ahead", count, right + burst, 2 * width, dtype) if delays else None,
            beside=Ring(self._arenas, "beside", count, conv_right + burst, width, dtype) if delays else None,
        )
        farthest = left + burst
        positions = _positions(encoder, farthest, -(burst + right))
        self._layers = [
            FastLayer(layer, number, positions, farthest, dtype) for number, layer in enumerate(encoder.layers)
        ]
        self._out_proj = encoder.out_proj
        self._counters["inputs"] = np.zeros(slots, np.int64)  # encoder frames that entered the first layer
        self._counters["mels"] = np.zeros(slots, np.int64)

    def _encode(
        self, mode: Mode, rows: Sequence[Row], slots: Counts, index: Tensor, mels: Tensor, fresh: Counts
    ) -> tuple[Tensor, Counts]:
        factor = self._subsampling.factor
        done = self._counters["inputs"][slots]
        total = self._counters["mels"][slots] + fresh
        last = np.array([row.last for row in rows])
        shift, frames = self._plan(slots, fresh)
        self._counters["mels"][slots] = total
        self._counters["inputs"][slots] = done + frames
        mels = self._place(mels, shift, int(frames.max()) * factor)
        limit = self._pass_frames(mode)
        pieces: list[Tensor] = []
        counts: list[Counts] = []
        passes = max(1, -(-int(frames.max()) // limit))
        for number in range(passes):
            part = np.clip(frames - number * limit, 0, limit)
            # a row ends in the pass that takes its last frame; one with no frame at all, in the first
            ends = last & (np.maximum(-(-frames // limit), 1) == number + 1)
            piece, emitted = self._pass(
                mode,
                slots,
                index,
                mels[:, number * limit * factor : (number * limit + int(part.max())) * factor],
                done + np.minimum(frames, number * limit),
                part,
                ends,
                np.where(ends, total, ENDLESS),
            )
            pieces.append(piece)
            counts.append(emitted)
        return self._assemble(pieces, counts)

    def _pass(
        self,
        mode: Mode,
        slots: Counts,
        index: Tensor,
        mels: Tensor,
        done: Counts,
        frames: Counts,
        last: np.ndarray,
        mel_total: Counts,
    ) -> tuple[Tensor, Counts]:
        """Sub-sampling and all layers for up to `limit` frames of each row."""
        context = self._contexts[mode.look_ahead]
        if not frames.any() and not self.info.geometry.recompute[mode.look_ahead]:
            return mels.new_zeros(len(slots), 0, self._width), frames
        plan = make_plan(self._rings, context, len(self._layers), slots, done, frames, last, self._device)
        self.calls["encoder"] += 1
        size = int(frames.max())
        if size:
            masks = None
            if last.any() or (done == 0).any():
                masks = [
                    torch.from_numpy(mask).to(self._device) for mask in self._subsampling.masks(done, size, mel_total)
                ]
            x = self._subsampling(mels, self._to_device(frames), index, self._arenas, masks)
        else:
            x = mels.new_zeros(len(slots), 1, self._width, dtype=self._dtype)
        for number, layer in enumerate(self._layers):
            x = layer(x, plan.layers[number if len(plan.layers) > 1 else 0], self._rings)
        if self._out_proj is not None:
            x = self._out_proj(x.float())
        return x.float(), plan.emitted

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

    def _pass_frames(self, mode: Mode) -> int:
        chunk = self.info.geometry.chunk_frames(mode.look_ahead)
        return max(chunk, self._max_frames // chunk * chunk)

    def _plan(self, slots: Counts, fresh: Counts) -> tuple[Counts, Counts]:
        """Mel frames to put before each row's, and the encoder frames it enters.

        Mel frames are counted from 1 - factor here (see subsampling.py): a fresh stream has those to take first.
        """
        factor = self._subsampling.factor
        shift = np.where((self._counters["mels"][slots] == 0) & (fresh > 0), factor - 1, 0)
        return shift, -(-(fresh + shift) // factor)

    def _check(self, mode: Mode, rows: Sequence[Row], slots: Counts, fresh: Counts) -> None:
        shift, frames = self._plan(slots, fresh)
        chunk = self._contexts[mode.look_ahead].chunk or 1
        after = self._counters["inputs"][slots] + frames
        for row, mels, done in zip(rows, fresh + shift, after, strict=True):
            if not row.last and (mels % self._subsampling.factor or done % chunk):
                raise ValueError(f"slot {row.slot}: {len(row.samples)} samples end between two chunks")


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


def _positions(encoder: torch.nn.Module, farthest: int, nearest: int) -> Tensor:
    """(W, width) float32: NeMo's encodings of the distances `farthest` down to `nearest`."""
    table = encoder.pos_enc
    table.extend_pe(max(farthest, -nearest) + 1, next(encoder.parameters()).device, torch.float32)
    center = table.pe.shape[1] // 2
    return table.pe[0, center - farthest : center - nearest + 1].float()
