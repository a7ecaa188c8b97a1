"""What a checkpoint weighs, and what taking one costs a step.

    python -m bench.checkpoints [--threads 1] [--steps 20] [--model demo|17x512]

Steps of look-ahead 6 with full caches, every other one behind the copy of one stream's state that the worker makes
between two steps; then that state encoded and put into a real Redis, as the worker does in the background. A stream's
bytes a second are at the default `state.checkpoint_after_ms`. Last line: one JSON object.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.models import MODELS, warmed
from deploy.redis import LocalRedis
from worker.batching.feed import FeedState
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode, Row
from worker.settings import StateSettings
from worker.state.checkpoint import Checkpoint, Fingerprint, encode
from worker.state.redis import RedisStore

LOOK_AHEAD = 6
BATCHES = (1, 8, 32)
FILLING = 14  # chunks after which the left context is full
ROUNDS = 20
NAMES = ("demo", "17x512")

Found = dict[str, float]


def steps(engine: FastEngine, batch: int, count: int) -> tuple[Found, bytes]:
    """Medians in ms of a step without and with a copy before it, of the copy, of encoding it; and the encoded state."""
    geometry, mode = engine.info.geometry, Mode(LOOK_AHEAD, engine.info.decoders[0])
    chunks = FILLING + 2 * count
    audio = (np.random.default_rng(0).standard_normal((batch, geometry.chunk_end(LOOK_AHEAD, chunks))) * 0.05).astype(
        np.float32
    )
    for slot in range(batch):
        engine.open(slot, mode)
    plain: list[float] = []
    copied: list[float] = []
    copies: list[float] = []
    begin = 0
    for chunk in range(chunks):
        end = geometry.chunk_end(LOOK_AHEAD, chunk)
        rows = [Row(slot, audio[slot, begin:end]) for slot in range(batch)]
        began = time.perf_counter()
        if chunk % 2:
            state = engine.save(chunk % batch)
        between = time.perf_counter()
        engine.step(rows)
        taken = time.perf_counter() - began
        begin = end
        if chunk >= FILLING:
            (copied if chunk % 2 else plain).append(1000 * taken)
            copies += [1000 * (between - began)] * (chunk % 2)
    waiting = [{"samples": audio[0, :8000].tobytes(), "received": end, "taken": end, "chunks": chunks, "closed": False}]
    checkpoint = Checkpoint("call/0", 0, 1, {}, state, FeedState(mode, waiting, False))
    encoding: list[float] = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        data = encode(checkpoint, Fingerprint("model", "layout"))
        encoding.append(1000 * (time.perf_counter() - began))
    medians = {"step_ms": plain, "step_with_copy_ms": copied, "copy_ms": copies, "encode_ms": encoding}
    return {name: round(statistics.median(values), 2) for name, values in medians.items()}, data


async def put(url: str, data: bytes) -> float:
    """Median ms until Redis has taken it."""
    store = RedisStore(url, ttl_s=60, timeout_s=5)
    await store.start()
    taken: list[float] = []
    for number in range(ROUNDS):
        began = time.perf_counter()
        await store.put(str(number), data)
        taken.append(1000 * (time.perf_counter() - began))
    await store.close()
    return round(statistics.median(taken), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20, help="of each kind (%(default)s)")
    parser.add_argument("--model", choices=NAMES)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    every_s = StateSettings().checkpoint_after_ms / 1000
    found: dict[str, dict[str, Found]] = {}
    table = Table(
        *("model", "batch", "step ms", "behind a copy ms", "copy ms", "copy %", "encode ms", "Redis ms", "KiB"),
        "KiB a second",
        title=f"checkpoints, one a stream every {every_s:g} s of audio",
    )
    with LocalRedis() as redis:
        for name in [options.model] if options.model else NAMES:
            engine = warmed(MODELS[name](), max(BATCHES))
            for batch in BATCHES:
                taken, data = steps(engine, batch, options.steps)
                taken["put_ms"] = asyncio.run(put(redis.url, data))
                taken["bytes"] = len(data)
                taken["bytes_per_s"] = round(len(data) / every_s)
                found.setdefault(name, {})[str(batch)] = taken
                share = 100 * taken["copy_ms"] / taken["step_ms"]
                times = ("step_ms", "step_with_copy_ms", "copy_ms")
                table.add_row(
                    name,
                    str(batch),
                    *(f"{taken[time]:.2f}" for time in times),
                    f"{share:.1f}",
                    *(f"{taken[time]:.2f}" for time in ("encode_ms", "put_ms")),
                    f"{len(data) / 1024:.0f}",
                    f"{len(data) / 1024 / every_s:.0f}",
                )
    Console(width=120).print(table)
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {options.threads} thread(s)")
    print(json.dumps({"checkpoints": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
