"""The fast engine's encoder step with its passes recorded, and run from Python.

    python -m bench.recorded [--models demo,17x512] [--rounds 15]

Passes of one chunk, in turns on the same streams, one thread: the median of the rounds, in milliseconds of processor
time. Also what a recording costs: the step that makes it and the two after it, in which TorchScript optimises it, in
steps; and the memory they take. Last line: one JSON object, Python's time to the recording's.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time

import torch
from rich.console import Console
from rich.table import Table

from bench import steps
from bench.models import MODELS
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine

CELLS = [(0, 1), (0, 8), (1, 1), (1, 8), (1, 32), (6, 8), (6, 32)]
FILL = 98  # frames, whole chunks of all look-aheads
FIRST = 3  # steps in which a recording is made and optimised


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
    titles = ("model", "look-ahead", "batch", "Python ms", "recorded ms", "Python / recorded", "made in steps", "MB")
    table, ratios = Table(*titles), dict[str, dict[str, float]]()
    for name in options.models.split(","):
        model = MODELS[name]()
        for look_ahead, batch in CELLS:
            chunk = look_ahead + 1
            seconds = (FILL + chunk * (options.rounds + FIRST + 1)) * 0.08 + 0.2
            mels = steps.mel_frames(model, [excerpt(2 * row, round(seconds * 16000)) for row in range(batch)])
            stepper = steps.Ours(FastEngine(model, batch, record_after=0), mels)
            with stepper.unrecorded():
                for first in range(0, FILL, 14):
                    stepper.step(look_ahead, batch, steps.mels_until(first), steps.mels_until(first + 14))
            taken: dict[str, list[float]] = {"Python": [], "recorded": []}
            state, before = stepper.save(batch), resident()
            for first in range(FILL, FILL + chunk * (options.rounds + FIRST), chunk):
                span = steps.mels_until(first), steps.mels_until(first + chunk)
                for way, times in taken.items():
                    stepper.load(state, batch)  # both take the same chunk
                    began = time.process_time()
                    if way == "recorded":
                        stepper.step(look_ahead, batch, *span)
                    else:
                        with stepper.unrecorded():
                            stepper.step(look_ahead, batch, *span)
                    times.append(time.process_time() - began)
                state = stepper.save(batch)
                if len(taken["recorded"]) == FIRST:
                    grown = resident() - before
            python, recorded = (statistics.median(times[FIRST:]) for times in taken.values())
            made = sum(taken["recorded"][:FIRST]) / python
            ratios.setdefault(name, {})[f"{look_ahead}/{batch}"] = round(python / recorded, 2)
            numbers = [f"{1e3 * python:.1f}", f"{1e3 * recorded:.1f}", f"{python / recorded:.2f}"]
            table.add_row(name, str(look_ahead), str(batch), *numbers, f"{made:.0f}", f"{grown:.0f}")
    Console(width=120).print(table)
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")
    print(json.dumps({"ratio": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
