"""On a processor, passes that come often are recorded by PyTorch's tracer and run by TorchScript, without Python.

A pass is some thousand small operations: starting them from Python takes a third of a small model's step.
"""

import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from worker.engine.fast.layer import AT_ONCE
from worker.engine.fast.linear import turns
from worker.engine.fast.plan import LayerShape
from worker.engine.fast.step import EncoderStep, PassShape

AFTER = 32  # passes of a kind before it is recorded, which takes as long as ten

# what decides which operations such a pass is made of: look-ahead; products turned round; taps multiplied at once
Kind = tuple[int, bool, bool]


class Recorder:
    """`EncoderStep`, recorded for passes of one chunk a row in which no segment begins or ends.

    They are what a live call is made of, and of few kinds: each recording takes some ten megabytes. One is for every
    number of rows with which Python takes the same branches.
    """

    def __init__(self, step: EncoderStep, after: int = AFTER) -> None:
        self._step = step
        self._after = after
        self._met: Counter[Kind] = Counter()
        self.made: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {}

    def __call__(self, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """As EncoderStep."""
        chunk = self._step.contexts[shape.look_ahead].chunk or 1
        if shape.edges or shape.frames != chunk or any(layer != LayerShape(*[chunk] * 3) for layer in shape.layers):
            return self._step(shape, mels, numbers)
        rows = shape.batch * chunk
        kind = shape.look_ahead, turns(rows), rows * self._step.width <= AT_ONCE
        recorded = self.made.get(kind)
        if recorded is not None:
            return recorded(mels, numbers)
        self._met[kind] += 1
        if self._met[kind] <= self._after:
            return self._step(shape, mels, numbers)
        return self._record(kind, shape, mels, numbers)

    def _record(self, kind: Kind, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """Run the pass, once, and record it on the way."""
        recorded = _Pass(self._step, shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of branches, see Kind
            warnings.simplefilter("ignore", FutureWarning)  # deprecated: torch.compile needs a compiler at run time
            self.made[kind] = torch.jit.trace(recorded, (mels, numbers), check_trace=False)
        assert recorded.result is not None
        return recorded.result


class _Pass(torch.nn.Module):
    """One pass as a module whose buffers are the state: TorchScript drops what is written to a constant and not read
    again in the same pass, but keeps what is written to a module."""

    def __init__(self, step: EncoderStep, shape: PassShape) -> None:
        super().__init__()
        self._run = lambda mels, numbers: step(shape, mels, numbers)
        self.result: Tensor | None = None
        for number, tensor in enumerate(step.state()):
            self.register_buffer(f"state_{number}", tensor, persistent=False)

    def forward(self, mels: Tensor, numbers: Tensor) -> Tensor:
        self.result = self._run(mels, numbers)
        return self.result
