"""The encoder's step: NeMo's stock streaming step, the reference engine and the fast one, side by side.

    python -m bench.encoder [--models demo,17x512,24x1024] [--look-aheads 0,1,6,13] [--batches 1,8,32] [--threads 1,2]

The same weights and the same log-mel frames of real speech for all three, left contexts full. In every cell the three
take one step in turn, on one thread and then on two, until `--seconds` are over (three turns at least). Times are
medians: of processor time with one thread, which other work on the machine disturbs less, of wall time with two.
Features and decoding stay outside. After the first turn of a cell the outputs must be equal. `floor` is what the fast
step's multiply-adds take at this machine's measured peak, or its bytes at the speed of reading memory, whichever is
more; a second table tells what the fast step's time is spent on. Then: how the fast step grows with the batch, the
left context and the model, and what a stream takes in memory.
Last line: one JSON object; `ratio` is NeMo's time to the fast step's on one thread.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from torch import Tensor

from bench import floor, growth, steps, where
from bench.models import MODELS, size_of, warmed
from tests.engine.speech import excerpt
from worker.engine.model import SpeechModel
from worker.engine.reference import ReferenceEngine

CELLS = {
    "demo": [(look_ahead, batch) for look_ahead in (0, 1, 6, 13) for batch in (1, 8, 32)],
    "17x512": [(look_ahead, batch) for look_ahead in (0, 1, 6, 13) for batch in (1, 8, 32)],
    "24x1024": [(look_ahead, 8) for look_ahead in (1, 6)],
}
GOALS = {0: 4.0, 1: 3.5, 6: 2.2, 13: 1.4}  # of 17x512 at batch 8 and 32
QUOTED = 1  # threads
FILL = 84  # encoder frames: more than the left context, whole chunks of every look-ahead
DISTINCT = 2  # streams that differ in their left context
FILL_WITH = 13  # look-ahead
LEAST_TURNS = 3
TOLERANCE = 1e-3  # of outputs with mean magnitude near 1; NeMo's own batch sizes differ by 1e-6


@dataclass
class Cell:
    """Median seconds of a step by (threads, engine), and what the fast step computes and moves."""

    look_ahead: int
    batch: int
    seconds: dict[tuple[int, str], float]
    multiply_adds: dict[str, int]
    bytes: int
    shares: dict[str, float]  # of the fast step's time on one thread

    def __str__(self) -> str:
        one = {name: 1000 * self.seconds[QUOTED, name] for name in ("NeMo", "fast")}
        return (
            f"look-ahead {self.look_ahead}, batch {self.batch}: NeMo {one['NeMo']:.1f} ms, fast {one['fast']:.1f} ms, "
            f"ratio {', '.join(f'{self.ratio(n):.2f} ({n} threads)' for n in self.threads)}"
        )

    @property
    def threads(self) -> list[int]:
        return sorted({count for count, _ in self.seconds})

    def ratio(self, threads: int, peer: str = "NeMo") -> float:
        return self.seconds[threads, peer] / self.seconds[threads, "fast"]


def streams(model: SpeechModel, count: int, seconds: int) -> Tensor:
    """(count, T, bands): streams that share their past with one of the first DISTINCT, and differ after it."""
    mels = steps.mel_frames(model, [excerpt(2 * i, seconds * 16000) for i in range(count)])
    past = steps.mels_until(FILL)
    mels[:, :past] = mels[torch.arange(count) % DISTINCT, :past]
    return mels


def steppers(model: SpeechModel, mels: Tensor) -> dict[str, steps.Stepper]:
    stock = steps.unpatched_copy(model)
    return {
        "NeMo": steps.Stock(stock, mels),
        "fast": steps.Ours(warmed(model, len(mels)), mels),
        "reference": steps.Ours(ReferenceEngine(model, len(mels)), mels),
    }


def fill(engines: dict[str, steps.Stepper]) -> dict[str, object]:
    """Full left contexts, the same for all engines."""
    chunk = FILL_WITH + 1
    for first in range(0, FILL, chunk):
        span = steps.mels_until(first), steps.mels_until(first + chunk)
        agree({name: engine.step(FILL_WITH, DISTINCT, *span) for name, engine in engines.items()})
    return {name: engine.save(DISTINCT) for name, engine in engines.items()}


def agree(outputs: dict[str, Tensor]) -> None:
    expected = outputs["reference"]
    for name, got in outputs.items():
        error = float((got - expected).abs().max()) if got.shape == expected.shape else float("inf")
        if not error <= TOLERANCE:
            raise SystemExit(f"{name} and the reference engine differ by {error}: they do not compute the same")


def measure(
    engines: dict[str, steps.Stepper],
    filled: dict[str, object],
    look_ahead: int,
    batch: int,
    seconds: float,
    threads: Sequence[int],
    mels: int,
) -> tuple[dict[tuple[int, str], float], dict[str, int], dict[str, float]]:
    """Median seconds of a step, its multiply-adds, and the shares of the fast step's time."""
    for name, engine in engines.items():
        engine.load(filled[name], batch)
    chunk = look_ahead + 1
    first = FILL
    taken: dict[tuple[int, str], list[float]] = {(count, name): [] for count in threads for name in engines}

    def turn(count: int | None) -> None:
        nonlocal first
        span = steps.mels_until(first), steps.mels_until(first + chunk)
        first += chunk
        outputs = {}
        for name, engine in engines.items():
            began = floor.clock()
            outputs[name] = engine.step(look_ahead, batch, *span)
            if count is not None:
                taken[count, name].append(floor.clock() - began)
        if count is None:
            agree(outputs)

    turn(None)
    counted = {}
    span = steps.mels_until(first), steps.mels_until(first + chunk)
    first += chunk
    fast = engines["fast"]
    assert isinstance(fast, steps.Ours)
    with fast.unrecorded():  # PyTorch's counter does not see into a recording
        for name, engine in engines.items():
            counted[name] = floor.multiply_adds(lambda engine=engine: engine.step(look_ahead, batch, *span))  # type: ignore[misc]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken[threads[0], "fast"]) < LEAST_TURNS:
        for count in threads:
            if steps.mels_until(first + chunk) > mels:
                break
            torch.set_num_threads(count)
            turn(count)
        else:
            continue
        break
    torch.set_num_threads(1)
    # the last span again: what is told apart here are operations, not frames
    shares = where.shares(lambda: fast.step(look_ahead, batch, *span))
    return {key: statistics.median(times) for key, times in taken.items()}, counted, shares


@torch.inference_mode()
def compare(
    model: SpeechModel,
    cells: list[tuple[int, int]],
    options: argparse.Namespace,
    machine: floor.Machine,
    advance: Callable[[Cell], None],
) -> list[Cell]:
    # enough audio for the left context and every turn of the longest chunk
    mels = streams(model, max(batch for _, batch in cells), 60)
    engines = steppers(model, mels)
    filled = fill(engines)
    size = size_of(model)
    found = []
    for look_ahead, batch in cells:
        times, counted, shares = measure(
            engines, filled, look_ahead, batch, options.seconds, options.threads, mels.shape[1]
        )
        moved = floor.bytes_moved(size, batch, look_ahead + 1)
        found.append(Cell(look_ahead, batch, times, counted, moved, shares))
        machine.look()
        advance(found[-1])
    return found


def show(name: str, cells: list[Cell], machine: floor.Machine, console: Console) -> None:
    columns = ["look-ahead", "batch", *(f"{engine} ms" for engine in steps.NAMES), "NeMo / fast", "reference / fast"]
    columns += [
        *(["on two threads"] if 2 in cells[0].threads else []),
        "NeMo MMAC",
        "fast MMAC",
        "fast MB",
        "floor ms",
        "floor / fast",
    ]
    table = Table(*columns, title=f"one encoder step, {name}, one thread")
    for cell in cells:
        one = {engine: cell.seconds[QUOTED, engine] for engine in steps.NAMES}
        numbers = [f"{1000 * one[engine]:.1f}" for engine in steps.NAMES]
        numbers += [f"{cell.ratio(QUOTED):.2f}", f"{cell.ratio(QUOTED, 'reference'):.2f}"]
        numbers += [f"{cell.ratio(2):.2f}"] if 2 in cell.threads else []
        numbers += [f"{cell.multiply_adds[engine] / 1e6:.0f}" for engine in ("NeMo", "fast")]
        least = machine.floor(cell.multiply_adds["fast"], cell.bytes, QUOTED)
        numbers += [f"{cell.bytes / 1e6:.0f}", f"{1000 * least:.1f}", f"{100 * least / one['fast']:.0f} %"]
        table.add_row(str(cell.look_ahead), str(cell.batch), *numbers)
    console.print(table)


def missed(cells: list[Cell]) -> list[str]:
    return [
        f"look-ahead {cell.look_ahead}, batch {cell.batch}: {cell.ratio(QUOTED):.2f} of {GOALS[cell.look_ahead]}"
        for cell in cells
        if cell.batch > 1 and cell.ratio(QUOTED) < GOALS[cell.look_ahead]
    ]


def nested(cells: list[Cell], threads: int) -> dict[int, dict[int, float]]:
    found: dict[int, dict[int, float]] = {}
    for cell in cells:
        found.setdefault(cell.look_ahead, {})[cell.batch] = round(cell.ratio(threads), 2)
    return found


def integers(text: str) -> list[int]:
    """Of an option: `1,8,32`."""
    return [int(number) for number in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=",".join(CELLS))
    parser.add_argument("--look-aheads", type=integers, default=[0, 1, 6, 13])
    parser.add_argument("--batches", type=integers, default=[1, 8, 32])
    parser.add_argument("--threads", type=integers, default=[1, 2], help="1 first; 1,2 by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a cell (%(default)s)")
    parser.add_argument("--no-growth", action="store_true", help="only the comparison")
    options = parser.parse_args()
    names = options.models.split(",")
    console = Console(width=160)
    began = time.perf_counter()
    torch.set_num_threads(QUOTED)
    machine = floor.Machine(options.threads)
    found: dict[str, list[Cell]] = {}
    grown: dict[str, dict[str, float]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for name in names:
            cells = [cell for cell in CELLS[name] if cell[0] in options.look_aheads and cell[1] in options.batches]
            task = progress.add_task(f"{name}: load", total=len(cells))
            model = MODELS[name]()
            progress.update(task, description=f"{name}: compare")

            def advance(cell: Cell, name: str = name, task: TaskID = task) -> None:
                progress.advance(task)
                progress.console.print(f"{name}, {cell}")

            found[name] = compare(model, cells, options, machine, advance)
            if not options.no_growth:
                progress.update(task, description=f"{name}: growth")
                grown[name] = growth.measure(model, name != "24x1024")
            progress.update(task, description=name)
    for name, cells in found.items():
        show(name, cells, machine, console)
        where.show({f"look-ahead {cell.look_ahead}, batch {cell.batch}": cell.shares for cell in cells}, console)
    if grown:
        growth.show(grown, console)
    if "17x512" in found:
        console.print("goals of 17x512 at batch 8 and 32: " + ("; ".join(missed(found["17x512"])) or "all met"))
    speeds = {"peak GMAC/s": machine.peak[QUOTED] / 1e9, "read GB/s": machine.reading[QUOTED] / 1e9}
    print(
        f"{os.cpu_count()} cores, {platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), "
        f"torch {torch.__version__}; one thread: "
        + ", ".join(f"{value:.1f} {key}" for key, value in speeds.items())
        + f"; {time.perf_counter() - began:.0f} s"
    )
    print(
        json.dumps(
            {
                "ratio": {name: nested(cells, QUOTED) for name, cells in found.items()},
                "ratio_two_threads": {name: nested(cells, 2) for name, cells in found.items() if 2 in options.threads},
                "fast_ms": {
                    name: {f"{c.look_ahead}/{c.batch}": round(1000 * c.seconds[QUOTED, "fast"], 2) for c in cells}
                    for name, cells in found.items()
                },
                "growth": grown,
                **{key.replace(" ", "_"): round(value, 1) for key, value in speeds.items()},
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
