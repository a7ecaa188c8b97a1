"""Streaming sub-sampling: each strided convolution keeps its own last input frame, nothing is recomputed.

A causal convolution of kernel 3 and stride 2 computes output j from inputs 2j-2, 2j-1, 2j. Count a stream's mel frames
from -7 (`subsampling - 1` frames that never were): then every chunk of t encoder frames takes exactly 8t mel frames,
each convolution halves them, and one frame is left over as its tail. What the frames before 0 give is masked to zero
after each activation, as the offline model's padding is; so is what lies past the last frame of a segment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.arenas import Arenas
from worker.engine.cache import advanced
from worker.engine.fast.linear import Linear


@dataclass(frozen=True, slots=True)
class _Stage:
    """One halving: a strided convolution, a pointwise one where the model has it, the activation."""

    weight: Tensor
    bias: Tensor | None
    groups: int
    pointwise: tuple[Tensor, Tensor | None] | None


class StreamingSubsampling:
    """NeMo's causal `dw_striding` or `striding` sub-sampling on rows of a batch."""

    def __init__(self, pre_encode: Any, scale: float, bands: int, dtype: torch.dtype) -> None:
        self._stages: list[_Stage] = []
        for module in pre_encode.conv:
            if not isinstance(module, torch.nn.Conv2d):
                continue
            weight = module.weight.detach().to(dtype)
            bias = None if module.bias is None else module.bias.detach().to(dtype)
            if module.stride == (2, 2):
                self._stages.append(_Stage(weight, bias, module.groups, None))
            else:
                last = self._stages.pop()
                self._stages.append(_Stage(last.weight, last.bias, last.groups, (weight, bias)))
        self.factor = 2 ** len(self._stages)
        out = pre_encode.out
        # xscaling multiplies the encoder's input by sqrt(width): done once, here
        self._out = Linear(out.weight.detach() * scale, None if out.bias is None else out.bias.detach() * scale, dtype)
        self._bands = bands
        self._dtype = dtype

    def add_state(self, arenas: Arenas) -> None:
        channels, bands = 1, self._bands
        for index, stage in enumerate(self._stages):
            arenas.add(f"subsampling.{index}", torch.zeros(1, channels * bands, dtype=self._dtype))
            channels = (stage.pointwise[0] if stage.pointwise else stage.weight).shape[0]
            bands = bands // 2 + 1

    def state(self, arenas: Arenas) -> list[Tensor]:
        return [arenas.view(f"subsampling.{index}") for index in range(len(self._stages))]

    def masks(self, done: Tensor, frames: int, mels: Tensor) -> list[Tensor]:
        """For each stage (B, frames * factor / 2^stage): outputs that the offline model has.

        done: (B,) encoder frames of the segment so far; mels: (B,) mel frames of the segment in all where it ends, a
        huge number elsewhere.
        """
        masks = []
        step = self.factor
        for _ in self._stages:
            step //= 2
            first = done * step - (step - 1)
            output = first[:, None] + torch.arange(frames * step, device=done.device)
            mels = mels // 2 + 1
            masks.append((output >= 0) & (output < mels[:, None]))
        return masks

    def __call__(
        self, mels: Tensor, frames: Tensor, slots: Tensor, arenas: Arenas, masks: Sequence[Tensor] | None
    ) -> Tensor:
        """mels: (B, T * factor, bands); frames: (B,) how many of the T each row really has. Returns (B, T, width)."""
        x = mels[:, None].to(self._dtype)
        used = frames * self.factor
        for index, stage in enumerate(self._stages):
            x = self._joined(x, used, slots, arenas, f"subsampling.{index}")
            x = F.conv2d(x, stage.weight, stage.bias, stride=2, groups=stage.groups)
            if stage.pointwise is not None:
                x = F.conv2d(x, *stage.pointwise)
            x = x.relu_()
            if masks is not None:
                x *= masks[index][:, None, :, None]
            used = used // 2
        x = x.transpose(1, 2).flatten(2)
        return self._out(x)

    @staticmethod
    def _joined(x: Tensor, used: Tensor, slots: Tensor, arenas: Arenas, name: str) -> Tensor:
        """The kept frame before the new ones, in the convolution's zero padding of bands; one copy does both.

        The last used frame is kept for the next step.
        """
        batch, channels, frames, bands = x.shape
        padded = x.new_zeros(batch, channels, 1 + frames, 2 + bands + 1)
        both = padded[..., 2:-1]
        both[:, :, 0] = arenas.gather(name, slots).view(batch, channels, bands)
        both[:, :, 1:] = x
        arenas.scatter(name, slots, advanced(both.transpose(1, 2), used, 1).flatten(2))
        return padded
