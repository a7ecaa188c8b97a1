"""On a processor, the passes of live calls are recorded by PyTorch's tracer and run by TorchScript, without Python.

A pass is some thousand small operations: starting them from Python takes up to a third of a small model's step.
"""

import logging
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from worker.engine.fast.layer import AT_ONCE
from worker.engine.fast.plan import full_shape
from worker.engine.fast.step import ENDLESS, NUMBERS, EncoderStep, PassShape

log = logging.getLogger(__name__)

RUNS = 2  # in which TorchScript optimises what was recorded

# what decides which operations such a pass is made of: look-ahead; whether taps are multiplied at once
Kind = tuple[int, bool]


class Recorder:
    """`EncoderStep`, recorded for passes of one chunk a row in which no segment begins or ends.

    They are what live calls are made of, and of at most two kinds a look-ahead: a recording takes some tens of
    megabytes. One is for every number of rows with which Python takes the same branches. What is not recorded runs
    from Python.
    """

    def __init__(self, step: EncoderStep, scratch: int) -> None:
        """scratch: the slot that no stream has."""
        self._step = step
        self._scratch = scratch
        self.made: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {}

    def prepare(self, look_ahead: int, batch: int) -> None:
        """Record the passes of up to so many rows. Takes as long as some dozens of them."""
        for rows in range(1, batch + 1):
            shape = self._shape(look_ahead, rows)
            if self._kind(shape) not in self.made and not self._record(shape):
                return

    def __call__(self, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """As EncoderStep."""
        recorded = None
        if shape == self._shape(shape.look_ahead, shape.batch):
            recorded = self.made.get(self._kind(shape))
        return self._step(shape, mels, numbers) if recorded is None else recorded(mels, numbers)

    def _shape(self, look_ahead: int, rows: int) -> PassShape:
        context = self._step.contexts[look_ahead]
        layers = full_shape(context, self._step.depth, look_ahead + 1, ends=False)
        return PassShape(look_ahead, rows, layers, edges=False)

    def _kind(self, shape: PassShape) -> Kind:
        rows = shape.batch * shape.frames
        return shape.look_ahead, rows * self._step.width <= AT_ONCE

    def _record(self, shape: PassShape) -> bool:
        """Run such a pass on the scratch slot, and write down its operations."""
        numbers = torch.zeros(len(NUMBERS), shape.batch, dtype=torch.int64)
        for name, value in (("slot", self._scratch), ("frames", shape.frames), ("mels", ENDLESS)):
            numbers[NUMBERS.index(name)] = value
        mels = torch.zeros(shape.batch, shape.frames * self._step.subsampling.factor, self._step.bands)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of branches, see Kind
            warnings.simplefilter("ignore", FutureWarning)  # deprecated: torch.compile needs a compiler at run time
            try:
                recorded = torch.jit.trace(_Pass(self._step, shape), (mels, numbers), check_trace=False)
                for _ in range(RUNS):
                    recorded(mels, numbers)
            except Exception as error:  # whatever the tracer does not take
                log.warning("passes cannot be recorded and go on without: %.200s", error)
                return False
        self.made[self._kind(shape)] = recorded
        return True


class _Pass(torch.nn.Module):
    """One pass as a module whose buffers are the state: TorchScript drops what is written to a constant and not read
    again in the same pass, but keeps what is written to a module."""

    def __init__(self, step: EncoderStep, shape: PassShape) -> None:
        super().__init__()
        self._run = lambda mels, numbers: step(shape, mels, numbers)
        for number, tensor in enumerate(step.state()):
            self.register_buffer(f"state_{number}", tensor, persistent=False)

    def forward(self, mels: Tensor, numbers: Tensor) -> Tensor:
        return self._run(mels, numbers)
