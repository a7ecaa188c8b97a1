"""CUDA graphs: one launch in place of some thousand. NOT YET RUN ON A GPU (see worker/engine/README.md)."""

from collections.abc import Callable

import torch
from torch import Tensor


class Shared:
    """What the graphs of one engine have in common, for as long as it lives: a side stream to be captured on, and
    memory.

    Graphs never run at the same time, and what one gives is read before the next. A pool must not outlive its graphs:
    once they are gone PyTorch takes no more captures into it. Streams are few, and libraries keep workspace for each.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()
            self.side = torch.cuda.Stream()


class Capture:
    """A function without arguments, of static tensors on the device; captured after its first call, then replayed.

    The first call is a real one, on the side stream: it warms up what libraries make on first use, which must not fall
    into a capture, and its effects on state happen once. Capturing records without running.
    """

    def __init__(self, function: Callable[[], Tensor], shared: Shared) -> None:
        self._function = function
        self._shared = shared
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None

    def __call__(self) -> Tensor:
        # streams, captures and replays are those of the current device, which need not be the tensors'
        with torch.cuda.device(self._shared.device):
            if self._graph is None or self._result is None:
                return self._first()
            self._graph.replay()
            return self._result

    def _first(self) -> Tensor:
        current, side = torch.cuda.current_stream(), self._shared.side
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = self._function()
        current.wait_stream(side)
        result.record_stream(current)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        with torch.cuda.graph(graph, pool=self._shared.pool, stream=side, capture_error_mode="thread_local"):
            self._result = self._function()
        self._graph = graph
        return result
