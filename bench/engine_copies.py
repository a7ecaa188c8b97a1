"""What the fast engine's copies cost: the share of a step spent on moving state, and what the memory would allow.

    python -m bench.engine_copies [--threads 1] [--steps 8] [--model demo|regular|17x512]

Whole steps (features, encoder, CTC) on the CPU, where an operation ends before the next begins: each copy is timed
where it is done. The last column but one is what the same bytes, read once and written once, would take at the
bandwidth that a plain copy of 256 MiB reaches here. Last line: one JSON object.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.floor import best
from bench.models import MODELS
from worker.engine.arenas import Arenas
from worker.engine.fast.engine import FastEngine
from worker.engine.fast.ring import Ring
from worker.engine.fast.subsampling import StreamingSubsampling
from worker.engine.interface import Mode, Row

LOOK_AHEADS = (0, 1, 2, 6, 13)  # those that a model has
BATCHES = (1, 8, 32)
WARM_UP = 2
NAMES = ("demo", "regular", "17x512")
KINDS = ("ring gathers", "ring writes", "arenas", "sub-sampling tails", "convolution inputs", "joins, padding")


class Meter:
    """Seconds and bytes of each kind of copy, nested ones counted once, where they are done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, int] = defaultdict(int)
        self._inner = 0.0

    def reset(self) -> None:
        self.seconds.clear()
        self.bytes.clear()

    def attach(self, owner: type, name: str, kind: str) -> None:
        raw = vars(owner)[name]
        real: Callable[..., Any] = raw.__func__ if isinstance(raw, staticmethod) else raw

        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self._inner = self._inner, 0.0
            began = time.perf_counter()
            result = real(*args, **kwargs)
            taken = time.perf_counter() - began
            self.seconds[kind] += taken - self._inner
            self._inner = outer + taken
            moved = result if isinstance(result, Tensor) else args[-1]
            self.bytes[kind] += moved.numel() * moved.element_size()
            return result

        setattr(owner, name, staticmethod(timed) if isinstance(raw, staticmethod) else timed)


def copying() -> float:
    """Bytes a second that a plain copy of 256 MiB reads, and as many that it writes."""
    source = torch.ones(64 << 20)
    target = torch.empty_like(source)
    return source.numel() * source.element_size() / best(lambda: target.copy_(source))


class Input:
    @staticmethod
    def contiguous(x: Tensor) -> Tensor:
        return x.contiguous()


def measure(engine: FastEngine, meter: Meter, look_ahead: int, batch: int, steps: int) -> float:
    """Seconds of a step, mean; the meter holds the sums of all steps."""
    geometry = engine.info.geometry
    # full rings: with the whole left context there, and wrapped round
    filling = 120 // geometry.chunk_frames(look_ahead)
    chunks = filling + WARM_UP + steps
    audio = (np.random.default_rng(0).standard_normal((batch, geometry.chunk_end(look_ahead, chunks))) * 0.05).astype(
        np.float32
    )
    for slot in range(batch):
        engine.open(slot, Mode(look_ahead, "ctc"))

    def step(first: int, count: int) -> float:
        begin = geometry.chunk_end(look_ahead, first - 1) if first else 0
        end = geometry.chunk_end(look_ahead, first + count - 1)
        rows = [Row(slot, audio[slot, begin:end]) for slot in range(batch)]
        began = time.perf_counter()
        engine.step(rows)
        return time.perf_counter() - began

    several = max(1, 28 // geometry.chunk_frames(look_ahead))
    for first in range(0, filling, several):
        step(first, min(several, filling - first))
    for chunk in range(filling, filling + WARM_UP):
        step(chunk, 1)
    meter.reset()
    return sum(step(chunk, 1) for chunk in range(filling + WARM_UP, chunks)) / steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--model", choices=NAMES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    meter = Meter()
    meter.attach(Ring, "read", "ring gathers")
    meter.attach(Ring, "write", "ring writes")
    meter.attach(Arenas, "gather", "arenas")
    meter.attach(Arenas, "scatter", "arenas")
    meter.attach(StreamingSubsampling, "_joined", "sub-sampling tails")
    import nemo.collections.asr  # noqa: F401  it compiles torch's own functions, so before they are replaced

    meter.attach(torch, "cat", "joins, padding")
    meter.attach(torch.nn.functional, "pad", "joins, padding")
    # a convolution along time copies its input to put the frames last: here before the call, to be seen
    convolve = torch.nn.functional.conv1d
    meter.attach(Input, "contiguous", "convolution inputs")
    torch.nn.functional.conv1d = lambda x, *rest, **named: convolve(Input.contiguous(x), *rest, **named)
    speed = copying()
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, make in ((n, MODELS[n]) for n in NAMES if options.model in (None, n)):
        engine = FastEngine(make(), max(BATCHES))  # without `warm_up`: what is recorded is not seen
        table = Table(
            "look-ahead", "batch", "step ms", *(f"{kind} %" for kind in KINDS), "copied MB", "at full speed %", "rest %"
        )
        table.title = f"share of a step, {name}"
        for look_ahead in (n for n in LOOK_AHEADS if n in engine.info.look_aheads):
            for batch in BATCHES:
                seconds = measure(engine, meter, look_ahead, batch, options.steps)
                total = seconds * options.steps
                share = {kind: 100 * meter.seconds[kind] / total for kind in KINDS}
                moved = sum(meter.bytes.values()) / options.steps
                ideal, rest = 100 * moved / speed / seconds, 100 - sum(share.values())
                numbers = [f"{share[kind]:.1f}" for kind in KINDS] + [f"{moved / 1e6:.1f}", f"{ideal:.1f}"]
                table.add_row(str(look_ahead), str(batch), f"{1000 * seconds:.1f}", *numbers, f"{rest:.1f}")
                found.setdefault(name, {})[f"{look_ahead}/{batch}"] = {
                    "ms": round(1000 * seconds, 2),
                    **{kind: round(value, 1) for kind, value in share.items()},
                    "at full speed": round(ideal, 1),
                }
        Console(width=130).print(table)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {options.threads} thread(s); "
        f"copies at {speed / 1e9:.1f} GB/s"
    )
    print(json.dumps({"percent of a step": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
