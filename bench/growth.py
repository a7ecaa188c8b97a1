"""How the fast step's cost grows with the batch, the left context and the model, and what a stream takes in memory."""

import dataclasses
import statistics

import torch
from rich.console import Console
from rich.table import Table

from bench import floor, steps
from bench.models import size_of, warmed
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.model import SpeechModel

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTEXTS = (28, 70, 140, 280)
LOOK_AHEAD = 1
BATCH_OF_CONTEXTS = 8
TURNS = 5
LONGEST = 28  # frames of one filling step


@torch.inference_mode()
def measure(model: SpeechModel, batches: bool) -> dict[str, float]:
    """Milliseconds of a step at look-ahead 1 by `batch N` and `context N`, and bytes of a stream."""
    found: dict[str, float] = {}
    if batches:
        for batch, seconds in _sweep(model, BATCHES).items():
            found[f"batch {batch}"] = round(1000 * seconds, 2)
    for left in CONTEXTS if batches else ():
        longer = dataclasses.replace(model, left_context={LOOK_AHEAD: left})
        (seconds,) = _sweep(longer, (BATCH_OF_CONTEXTS,)).values()
        found[f"context {left}"] = round(1000 * seconds, 2)
    engine = FastEngine(model, 1)
    found["bytes"] = engine.bytes_per_slot()
    found["bytes by arithmetic"] = arithmetic(model)
    return found


def arithmetic(model: SpeechModel, frames: int = LONGEST) -> int:
    """Bytes in float32 of K, V and the convolution's input alone: rings of the left context and one long step."""
    size = size_of(model)
    return 4 * size.layers * size.width * (2 * (size.left + frames) + size.kernel - 1 + frames)


def _sweep(model: SpeechModel, batches: tuple[int, ...]) -> dict[int, float]:
    """Median seconds of a step, by batch, in turns. Every stream is a copy of one whose left context is full."""
    left = model.left_context[LOOK_AHEAD]
    filling = -(-left // LONGEST) * LONGEST + LONGEST
    chunk = LOOK_AHEAD + 1
    mels = steps.mel_frames(model, [excerpt(0, (filling + chunk + 4) * 1280)])
    engine = warmed(model, max(batches))
    stepper = steps.Ours(engine, mels.expand(engine.slots, -1, -1))
    for first in range(0, filling, LONGEST):
        stepper.step(LOOK_AHEAD, 1, steps.mels_until(first), steps.mels_until(first + LONGEST))
    state = engine.save(0)
    taken: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in range(TURNS + 1):
        for batch, seconds in taken.items():
            for slot in range(batch):
                engine.load(slot, state)
            began = floor.clock()
            stepper.step(LOOK_AHEAD, batch, steps.mels_until(filling), steps.mels_until(filling + chunk))
            seconds.append(floor.clock() - began)
    return {batch: statistics.median(seconds[1:]) for batch, seconds in taken.items()}


def show(grown: dict[str, dict[str, float]], console: Console) -> None:
    table = Table("model", *(f"batch {n}" for n in BATCHES), title="fast step, ms, look-ahead 1, one thread")
    for name, row in grown.items():
        if f"batch {BATCHES[0]}" in row:
            table.add_row(name, *(f"{row[f'batch {n}']:.1f}" for n in BATCHES))
    console.print(table)
    title = f"the same by left context, batch {BATCH_OF_CONTEXTS}"
    table = Table("model", *(f"left {n}" for n in CONTEXTS), title=title)
    for name, row in grown.items():
        if f"context {CONTEXTS[0]}" in row:
            table.add_row(name, *(f"{row[f'context {n}']:.1f}" for n in CONTEXTS))
    console.print(table)
    table = Table("model", "bytes a stream", "K, V and convolution by arithmetic", "share", title="memory, float32")
    for name, row in grown.items():
        share = row["bytes by arithmetic"] / row["bytes"]
        table.add_row(name, f"{row['bytes']:,.0f}", f"{row['bytes by arithmetic']:,.0f}", f"{100 * share:.1f} %")
    console.print(table)
