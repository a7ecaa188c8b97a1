"""Buckets: passes rounded up to few shapes, each with static buffers and, on CUDA, a graph.

Padding rows belong to the scratch slot, which no stream ever has: what they read and write there is nobody's. Padding
columns lie past every row's own frames, where a pass writes what the next one overwrites.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from worker.engine.fast.graphs import Capture, Shared
from worker.engine.fast.plan import full_shape
from worker.engine.fast.step import ENDLESS, NUMBERS, EncoderStep, PassShape


class Bucket:
    """The static buffers of one shape, and the pass over them."""

    def __init__(
        self, step: EncoderStep, shape: PassShape, scratch: int, device: torch.device, shared: Shared | None = None
    ) -> None:
        """shared: on CUDA, what to capture a graph with."""
        self.shape = shape
        self.mels = torch.zeros(shape.batch, shape.frames * step.subsampling.factor, step.bands, device=device)
        self.numbers = torch.zeros(len(NUMBERS), shape.batch, dtype=torch.int64, device=device)
        self.run: Callable[[], Tensor] = lambda: step(shape, self.mels, self.numbers)
        if shared is not None:
            self.run = Capture(self.run, shared)
        self._padding = torch.zeros(len(NUMBERS), shape.batch, dtype=torch.int64)
        self._padding[NUMBERS.index("slot")] = scratch
        self._padding[NUMBERS.index("mels")] = ENDLESS

    def fill(self, mels: Tensor, numbers: Tensor) -> None:
        """Put in mels (B, T, bands), of at most this bucket's size, and numbers (len(NUMBERS), B), on the host."""
        rows, columns = mels.shape[:2]
        self.mels[:rows, :columns].copy_(mels)
        self.mels[:rows, columns:].zero_()
        self.mels[rows:].zero_()
        # a block of its own each time: the last pass may not have copied it yet
        host = self._padding.clone()
        host[:, :rows] = numbers
        if self.numbers.is_cuda:
            host = host.pin_memory()
        self.numbers.copy_(host, non_blocking=True)


class Buckets:
    """All buckets in use. Sizes are so few that each is soon met: powers of two, in rows and in chunks."""

    def __init__(self, step: EncoderStep, slots: int, scratch: int, device: torch.device) -> None:
        self._step = step
        self._slots = slots
        self._scratch = scratch
        self._device = device
        self._shared = Shared(device) if device.type == "cuda" else None
        self.made: dict[PassShape, Bucket] = {}

    def shape(self, look_ahead: int, batch: int, frames: int, ends: bool, limit: int) -> PassShape:
        """The smallest bucket for so many rows and frames; limit: the most frames of such a pass, whole chunks."""
        chunk = look_ahead + 1
        rows = min(_power_of_two(batch), self._slots)
        columns = min(chunk * _power_of_two(-(-frames // chunk)), limit)
        context = self._step.contexts[look_ahead]
        return PassShape(look_ahead, rows, full_shape(context, self._step.depth, columns, ends), edges=True)

    def prepare(self, look_ahead: int, batch: int, ends: bool, limit: int) -> None:
        """Make all buckets that `shape` gives for up to so many rows. Each is run once, for the scratch slot alone, and
        captured where there is CUDA."""
        chunk = look_ahead + 1
        # past the last power of two, the size is the limit itself
        rows = [1 << n for n in range(_power_of_two(batch).bit_length())]
        columns = [chunk << n for n in range(_power_of_two(-(-limit // chunk)).bit_length())]
        for size, frames in itertools.product(rows, columns):
            shape = self.shape(look_ahead, size, frames, ends, limit)
            if shape not in self.made:
                self(shape, torch.zeros(0, 0, self._step.bands), torch.zeros(len(NUMBERS), 0, dtype=torch.int64))

    def __call__(self, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """As EncoderStep, for at most the shape's rows and frames; all the shape's rows come back, to be read at once:
        the next pass of the shape overwrites them."""
        bucket = self.made.get(shape)
        if bucket is None:
            bucket = self.made[shape] = Bucket(self._step, shape, self._scratch, self._device, self._shared)
        bucket.fill(mels, numbers)
        return bucket.run()


def _power_of_two(number: int) -> int:
    """The next one that is not smaller."""
    return 1 << max(0, number - 1).bit_length()
