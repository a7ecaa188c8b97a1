"""The fast engine's step against the reference engine's: whole steps (features, encoder, CTC) on the demo model.

    python -m bench.engine_step [--threads 1] [--steps 12]

Both engines take the same chunks in turn, in one run; the ratio is that of the medians. Last line: one JSON object.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from worker.engine.batched import BatchedEngine
from worker.engine.build import build
from worker.engine.interface import Mode, Row
from worker.engine.model import load

MODEL = str(Path(__file__).parents[1] / "demo" / "models" / "demo.nemo")
BATCHES = (1, 8, 32)
WARM_UP = 3


def medians(engines: list[BatchedEngine], look_ahead: int, batch: int, steps: int) -> list[float]:
    """Median milliseconds of a step of each engine."""
    geometry = engines[0].info.geometry
    samples = geometry.chunk_end(look_ahead, WARM_UP + steps)
    audio = (np.random.default_rng(0).standard_normal((batch, samples)) * 0.05).astype(np.float32)
    mode = Mode(look_ahead, "ctc")
    for engine in engines:
        engine.warm_up(mode, batch)
        for slot in range(batch):
            engine.open(slot, mode)
    taken: list[list[float]] = [[] for _ in engines]
    position = 0
    for chunk in range(WARM_UP + steps):
        end = geometry.chunk_end(look_ahead, chunk)
        rows = [Row(slot, audio[slot, position:end]) for slot in range(batch)]
        for engine, times in zip(engines, taken, strict=True):
            began = time.perf_counter()
            engine.step(rows)
            times.append(1000 * (time.perf_counter() - began))
        position = end
    return [statistics.median(times[WARM_UP:]) for times in taken]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engines = [build(load(MODEL, device="cpu"), max(BATCHES), kind) for kind in ("fast", "reference")]
    table = Table("look-ahead", "batch", "fast ms", "reference ms", "ratio", title="one step, demo model")
    ratios: dict[str, dict[str, float]] = {}
    for look_ahead in sorted(engines[0].info.look_aheads):
        for batch in BATCHES:
            fast, reference = medians(engines, look_ahead, batch, options.steps)
            ratios.setdefault(str(look_ahead), {})[str(batch)] = round(reference / fast, 2)
            table.add_row(str(look_ahead), str(batch), f"{fast:.1f}", f"{reference:.1f}", f"{reference / fast:.2f}")
    Console().print(table)
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {options.threads} thread(s)")
    print(json.dumps({"ratio": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
