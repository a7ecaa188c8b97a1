"""The fast engine's encoder step with its passes recorded, and run from Python.

    python -m bench.recorded [--models demo,17x512] [--rounds 15]

Passes of one chunk, in turns on the same streams, one thread: the median of the rounds, in milliseconds of processor
time. Also what the recordings for up to so many streams cost at a worker's start: seconds, and the memory that stays.
Last line: one JSON object, Python's time to the recording's.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from contextlib import nullcontext

import torch
from rich.console import Console
from rich.table import Table

from bench import steps
from bench.models import MODELS
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine

CELLS = [(0, 1), (0, 8), (1, 1), (1, 8), (1, 32), (6, 8), (6, 32)]
FILL = 98  # frames, whole chunks of all look-aheads
FIRST = 2  # rounds that are not counted


def resident() -> float:
    """MB."""
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="demo,17x512")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    titles = ("model", "look-ahead", "batch", "Python ms", "recorded ms", "Python / recorded", "recordings", "s", "MB")
    table, ratios = Table(*titles), dict[str, dict[str, float]]()
    for name in options.models.split(","):
        model = MODELS[name]()
        for look_ahead, batch in CELLS:
            chunk = look_ahead + 1
            seconds = (FILL + chunk * (options.rounds + FIRST + 1)) * 0.08 + 0.2
            mels = steps.mel_frames(model, [excerpt(2 * row, round(seconds * 16000)) for row in range(batch)])
            engine = FastEngine(model, batch)
            stepper = steps.Ours(engine, mels)
            for first in range(0, FILL, 14):
                stepper.step(look_ahead, batch, steps.mels_until(first), steps.mels_until(first + 14))
            state, before, began = stepper.save(batch), resident(), time.process_time()
            engine._recorder.prepare(look_ahead, batch)
            made, grown = time.process_time() - began, resident() - before
            taken: dict[str, list[float]] = {"Python": [], "recorded": []}
            for first in range(FILL, FILL + chunk * (options.rounds + FIRST), chunk):
                span = steps.mels_until(first), steps.mels_until(first + chunk)
                for way, times in taken.items():
                    stepper.load(state, batch)  # both take the same chunk
                    with stepper.unrecorded() if way == "Python" else nullcontext():
                        began = time.process_time()
                        stepper.step(look_ahead, batch, *span)
                        times.append(time.process_time() - began)
                state = stepper.save(batch)
            python, recorded = (statistics.median(times[FIRST:]) for times in taken.values())
            ratios.setdefault(name, {})[f"{look_ahead}/{batch}"] = round(python / recorded, 2)
            numbers = [f"{1e3 * python:.1f}", f"{1e3 * recorded:.1f}", f"{python / recorded:.2f}"]
            cost = [str(len(engine._recorder.made)), f"{made:.1f}", f"{grown:.0f}"]
            table.add_row(name, str(look_ahead), str(batch), *numbers, *cost)
    Console(width=120).print(table)
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")
    print(json.dumps({"ratio": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
