"""The encoder's pass as a function of device tensors alone: what a CUDA graph can capture.

For one shape it is always the same operations on the same sizes. What differs from pass to pass (which slots, how far
each stream is, whether it ends) comes in tensors; nothing is read back by the host.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.arenas import Arenas
from worker.engine.fast.layer import FastLayer
from worker.engine.fast.linear import Linear, affine
from worker.engine.fast.plan import Context, LayerShape, Progress, Rings, make_plan
from worker.engine.fast.ring import Ring
from worker.engine.fast.subsampling import StreamingSubsampling
from worker.engine.model import SpeechModel

# What the host tells the device of each row: slot; frames of the segment before this pass and in it; 1 where the
# segment ends; mel frames of the segment in all where it ends, else ENDLESS.
NUMBERS = ("slot", "done", "frames", "last", "mels")
ENDLESS = 1 << 40


@dataclass(frozen=True, slots=True)
class PassShape:
    """All that distinguishes the operations of one pass from those of another."""

    look_ahead: int
    batch: int
    layers: tuple[LayerShape, ...]  # one for each layer, or one for all
    edges: bool  # whether a segment may begin or end: then sub-sampling masks what the offline model does not have

    @property
    def frames(self) -> int:
        return self.layers[0].inputs


class EncoderStep:
    """Sub-sampling and all layers, with their weights and the streams' state in arenas.

    Weights are copied out of the NeMo model, which stays as it is.
    """

    def __init__(self, model: SpeechModel, arenas: Arenas, bands: int, dtype: torch.dtype, max_frames: int) -> None:
        """max_frames: the most that a row which ends its segment gets in one pass."""
        encoder = model.encoder
        self._arenas = arenas
        self.width, self.depth, self.bands = int(encoder.d_model), len(encoder.layers), bands
        self.subsampling = StreamingSubsampling(encoder.pre_encode, encoder.xscale or 1.0, bands, dtype)
        self.subsampling.add_state(arenas)
        self.contexts = _contexts(model)
        left = max(context.left for context in self.contexts.values())
        right = max(context.right for context in self.contexts.values())
        conv_left, conv_right = (
            max(getattr(context, name) for context in self.contexts.values()) for name in ("conv_left", "conv_right")
        )
        # at a segment's end the frames that earlier layers held back arrive all at once
        self.burst = max_frames + max(model.info.geometry.recompute.values())
        burst, width = self.burst, self.width
        waits = any(context.wait for context in self.contexts.values())
        self._rings = Rings(
            kv=Ring(arenas, "kv", self.depth, left + right + burst, 2 * width, dtype),
            conv=Ring(arenas, "conv", self.depth, conv_left + conv_right + burst, width, dtype),
            ahead=Ring(arenas, "ahead", self.depth, right + burst, 2 * width, dtype) if waits else None,
            beside=Ring(arenas, "beside", self.depth, conv_right + burst, width, dtype) if waits else None,
        )
        farthest = left + burst
        positions = _positions(encoder, farthest, -(burst + right))
        self._layers = [
            FastLayer(layer, number, positions, farthest, dtype) for number, layer in enumerate(encoder.layers)
        ]
        self._out_proj = None if encoder.out_proj is None else Linear(*affine(encoder.out_proj), torch.float32)
        self.out_width = self.width if encoder.out_proj is None else int(encoder.out_proj.out_features)

    def __call__(self, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """mels: (B, frames * factor, bands) float32, zero past each row's own; numbers: (len(NUMBERS), B) int64.

        Returns (B, outputs, out_width) float32, each row's emitted frames first. The state of the rows' slots advances.
        """
        slots, done, frames, last, total = numbers.unbind()
        progress = Progress(done, done + frames, last)
        plans = make_plan(self._rings, self.contexts[shape.look_ahead], slots, progress, shape.layers)
        masks = self.subsampling.masks(done, shape.frames, total) if shape.edges else None
        x = self.subsampling(mels, frames, slots, self._arenas, masks)
        for number, layer in enumerate(self._layers):
            x = layer(x, plans[number if len(plans) > 1 else 0], self._rings)
        if self._out_proj is not None:
            x = self._out_proj(x.float())
        return x.float()

    def state(self) -> list[Tensor]:
        """Every tensor that a pass writes to and a later one reads, as the operations see it."""
        rings = (self._rings.kv, self._rings.conv, self._rings.ahead, self._rings.beside)
        return [*self.subsampling.state(self._arenas), *(tensor for ring in rings if ring for tensor in ring.state())]


def _contexts(model: SpeechModel) -> dict[int, Context]:
    """By look-ahead."""
    conv_left, conv_right = (int(n) for n in model.encoder.conv_context_size)
    contexts = {}
    for look_ahead, left in model.left_context.items():
        chunk = look_ahead + 1 if model.style == "chunked_limited" else None
        right = 0 if chunk else look_ahead
        contexts[look_ahead] = Context(left, right, chunk, conv_left, 0 if chunk else conv_right)
    return contexts


def _positions(encoder: torch.nn.Module, farthest: int, nearest: int) -> Tensor:
    """(W, width) float32: NeMo's encodings of the distances `farthest` down to `nearest`."""
    table = encoder.pos_enc
    table.extend_pe(max(farthest, -nearest) + 1, next(encoder.parameters()).device, torch.float32)
    center = table.pe.shape[1] // 2
    return table.pe[0, center - farthest : center - nearest + 1].float()
