"""On a processor, passes that come often are recorded by PyTorch's tracer and run by TorchScript, without Python.

A pass is some thousand small operations. Starting them from Python takes a third of a small model's step, and the
interpreter's lock all the while, which the worker's event loop waits for.
"""

import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from worker.engine.fast.layer import AT_ONCE
from worker.engine.fast.linear import turns
from worker.engine.fast.step import EncoderStep, PassShape

AFTER = 32  # passes of a kind before it is recorded, which takes as long as ten
MOST = 16  # recordings, of some ten megabytes each
KINDS = 1_000  # that are counted

Kind = tuple[object, ...]


class Recorder:
    """`EncoderStep`, recorded. A recording is for every number of rows with which Python takes the same branches."""

    def __init__(self, step: EncoderStep, after: int = AFTER) -> None:
        self._step = step
        self._after = after
        self._met: Counter[Kind] = Counter()
        self.made: dict[Kind, Callable[[Tensor, Tensor], Tensor]] = {}

    def __call__(self, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """As EncoderStep."""
        if shape.edges:  # of too many kinds
            return self._step(shape, mels, numbers)
        kind = self._kind(shape)
        recorded = self.made.get(kind)
        if recorded is not None:
            return recorded(mels, numbers)
        if self._met[kind] == self._after and len(self.made) < MOST:
            return self._record(kind, shape, mels, numbers)
        if len(self._met) > KINDS:
            self._met.clear()
        self._met[kind] = min(self._met[kind] + 1, self._after)
        return self._step(shape, mels, numbers)

    def _kind(self, shape: PassShape) -> Kind:
        """All that decides which operations a pass without edges is made of."""
        frames = {(layer.inputs, layer.queries, layer.outputs) for layer in shape.layers}
        rows = [shape.batch * columns for layer in frames for columns in layer]
        branches = tuple((turns(number), number * self._step.width <= AT_ONCE) for number in sorted(set(rows)))
        return shape.look_ahead, shape.layers, branches

    def _record(self, kind: Kind, shape: PassShape, mels: Tensor, numbers: Tensor) -> Tensor:
        """Run the pass, once, and record it on the way."""
        recorded = _Pass(self._step, shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of branches, see _kind
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
