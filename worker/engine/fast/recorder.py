"""On a processor, passes that come often are recorded by PyTorch's tracer and run by TorchScript, without Python.

A pass is some thousand small operations: starting them from Python takes up to a quarter of a small model's step.
"""

import logging
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from worker.engine.fast.layer import AT_ONCE
from worker.engine.fast.linear import turns
from worker.engine.fast.plan import LayerShape
from worker.engine.fast.step import NUMBERS, EncoderStep, PassShape

log = logging.getLogger(__name__)

AFTER = 32  # passes of a kind before it is recorded, which takes as long as some dozens

# what decides which operations such a pass is made of: look-ahead; products turned round; taps multiplied at once
Kind = tuple[int, bool, bool]


class Recorder:
    """`EncoderStep`, recorded for passes of one chunk a row in which no segment begins or ends.

    They are what a live call is made of, and of few kinds: each recording takes some tens of megabytes. One is for
    every number of rows with which Python takes the same branches.
    """

    def __init__(self, step: EncoderStep, scratch: int, after: int = AFTER) -> None:
        """scratch: the slot that no stream has."""
        self._step = step
        self._scratch = scratch
        self._after = after
        self._met: Counter[Kind] = Counter()
        self.made: dict[Kind, Callable[[Tensor, Tensor], Tensor] | None] = {}  # None: it cannot be recorded

    def __call__(self, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """As EncoderStep."""
        chunk = shape.look_ahead + 1
        if shape.edges or shape.frames != chunk or any(layer != LayerShape(*[chunk] * 3) for layer in shape.layers):
            return self._step(shape, mels, numbers)
        rows = shape.batch * chunk
        kind = shape.look_ahead, turns(rows), rows * self._step.width <= AT_ONCE
        self._met[kind] += 1
        if kind not in self.made and self._met[kind] > self._after:
            self.made[kind] = self._record(shape, mels, numbers)
        recorded = self.made.get(kind)
        return self._step(shape, mels, numbers) if recorded is None else recorded(mels, numbers)

    def _record(self, shape: PassShape, mels: Tensor, numbers: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Run such a pass on the scratch slot, and write down its operations."""
        nobody = numbers.clone()
        nobody[NUMBERS.index("slot")] = self._scratch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of branches, see Kind
            warnings.simplefilter("ignore", FutureWarning)  # deprecated: torch.compile needs a compiler at run time
            try:
                return torch.jit.trace(_Pass(self._step, shape), (mels, nobody), check_trace=False)
            except Exception as error:  # whatever the tracer does not take
                log.warning("a pass cannot be recorded and goes on without: %.200s", error)
                return None


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
