"""CUDA graphs: one launch in place of some thousand. NOT YET RUN ON A GPU (see worker/engine/README.md)."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor


@cache
def _pool(device: torch.device) -> Any:
    """Memory that all graphs of a device share: they never run at the same time, and what one gives is read before
    the next."""
    return torch.cuda.graph_pool_handle()


class Capture:
    """A function without arguments, of static tensors on `device`; captured after its first call, then replayed.

    The first call is a real one, on a side stream: it warms up what libraries make on first use, which must not fall
    into a capture, and its effects on state happen once. Capturing records without running.
    """

    def __init__(self, function: Callable[[], Tensor], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None

    def __call__(self) -> Tensor:
        # streams, captures and replays are those of the current device, which need not be the tensors'
        with torch.cuda.device(self._device):
            if self._graph is None or self._result is None:
                return self._first()
            self._graph.replay()
            return self._result

    def _first(self) -> Tensor:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = self._function()
        current.wait_stream(side)
        result.record_stream(current)
        graph = torch.cuda.CUDAGraph()
        # other threads may use the device meanwhile
        with torch.cuda.graph(graph, pool=_pool(self._device), capture_error_mode="thread_local"):
            self._result = self._function()
        self._graph = graph
        return result
