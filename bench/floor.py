"""What a step cannot be faster than here: its multiply-adds and its bytes, at speeds measured on this machine.

Multiply-adds are counted by PyTorch's own flop counter while the step runs.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from worker.engine import native
from worker.engine.fast.linear import Linear

FULL = 512  # rows of the product that shows the machine's peak


@dataclass(frozen=True)
class Size:
    """What the cost of a model's step follows from."""

    layers: int
    width: int
    hidden: int  # of the feed-forward modules
    kernel: int
    left: int  # frames of left context

    @property
    def products(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of a layer's linear maps of the new frames: q, k and v; out; two feed-forward modules; the
        convolution's two pointwise maps."""
        d, h = self.width, self.hidden
        return [(h, d), (d, h), (3 * d, d), (d, d), (2 * d, d), (d, d), (h, d), (d, h)]


def clock() -> float:
    """Seconds. With one thread, processor time of it: other work on the machine then disturbs a measurement less, and
    on an idle machine it is the same. Else wall time."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def multiply_adds(step: Callable[[], object]) -> int:
    """Of matrix products, convolutions and attention while `step` runs once."""
    ours = {}
    if native.loaded():
        ours = {torch.ops.trunkline.product: _product_flops, torch.ops.trunkline.attend: _attend_flops}
    with FlopCounterMode(display=False, custom_mapping=ours) as counter:
        step()
    return int(counter.get_total_flops()) // 2


def _product_flops(x: tuple[int, ...], packed: tuple[int, ...], *_: object, **__: object) -> int:
    """Of shapes; panels are (P, inputs, outputs of each)."""
    return 2 * math.prod(x[:-1]) * math.prod(packed)


def _attend_flops(query: tuple[int, ...], table: object, rows: tuple[int, ...], *_: object, **__: object) -> int:
    """Content and values by keys, positions by distances."""
    queries, keys = query[1], rows[1]
    return 2 * math.prod(query) * (2 * keys + keys + queries - 1)


def bytes_moved(size: Size, batch: int, frames: int) -> int:
    """The least that a float32 step must read and write when nothing stays in a processor's cache between two layers:
    weights once, each stream's left context of K, V and of the convolution once, the new frames' into the rings."""
    weights = size.layers * sum(out * inputs for out, inputs in size.products)
    read = batch * size.layers * (2 * size.width * size.left + size.width * (size.kernel - 1))
    written = batch * size.layers * 3 * size.width * frames
    return 4 * (weights + read + written)


class Machine:
    """Multiply-adds and bytes read a second, by threads: the best of all looks, since a busy moment slows one down."""

    def __init__(self, threads: Sequence[int]) -> None:
        self.peak = dict.fromkeys(threads, 0.0)
        self.reading = dict.fromkeys(threads, 0.0)

    def look(self) -> None:
        before = torch.get_num_threads()
        for count in self.peak:
            torch.set_num_threads(count)
            self.peak[count] = max(self.peak[count], peak())
            self.reading[count] = max(self.reading[count], bandwidth())
        torch.set_num_threads(before)

    def floor(self, multiply_adds: int, moved: int, threads: int) -> float:
        """Seconds that so many multiply-adds and bytes take at the least."""
        return max(multiply_adds / self.peak[threads], moved / self.reading[threads])


def bandwidth() -> float:
    """Bytes a second at which 256 MiB are read: nearly all that a step moves."""
    source = torch.ones(64 << 20)
    return source.numel() * source.element_size() / best(source.sum)


def peak() -> float:
    """Multiply-adds a second of a square float32 product that stays in the caches, PyTorch's or ours."""
    x, w = torch.randn(FULL, FULL), torch.randn(FULL, FULL)
    ours = Linear(w, None, torch.float32)
    return FULL**3 / min(best(lambda: functional.linear(x, w), 20), best(lambda: ours(x), 20))


def best(run: Callable[[], object], times: int = 4) -> float:
    """Seconds of the fastest of some runs."""
    taken = []
    for _ in range(times):
        began = clock()
        run()
        taken.append(clock() - began)
    return min(taken)
