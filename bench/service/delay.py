"""How many calls are held in real time, and how late events come at a share of that."""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import astuple, dataclass

from bench.realtime_calls import Row, level
from demo.__main__ import MODEL, PARTITIONS
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from wire import Topics, specs
from worker.ingest import topics as admin

LIMIT_MS = 300.0  # 95 of 100 partials come sooner after the record that completes their chunk
SHARES = (30, 70, 95)  # percent of what is held
STEP = 1.12  # from one level to the next
SETTINGS: dict[str, object] = {"batching.slots": 512, "batching.max_batch": 64, "model.threads": 1}


@dataclass(frozen=True)
class Delays:
    """`held`: stereo calls at once. `levels`: all that were tried; `loads`: by percent of what is held."""

    held: int
    levels: list[Row]
    loads: dict[int, Row]


def measure(servers: str, zygote: Zygote, first: int, seconds: float, say: Callable[[str], None]) -> Delays:
    return asyncio.run(_measure(servers, zygote, first, seconds, say))


async def _measure(servers: str, zygote: Zygote, first: int, seconds: float, say: Callable[[str], None]) -> Delays:
    topics = Topics(*(f"{name}.bench-{uuid.uuid4().hex[:6]}" for name in astuple(Topics())))
    await admin.create(specs(topics, PARTITIONS), bootstrap_servers=servers)
    worker = LocalWorker(servers, topics, MODEL, settings=SETTINGS, zygote=zygote)
    levels: list[Row] = []

    async def at(calls: int, name: str) -> Row:
        row = await level(servers, topics, worker, calls, seconds, name)
        say(f"{calls} calls: p95 {row['p95_ms']:.0f} ms, {row['batch']:.1f} streams a step")
        return row

    try:
        await asyncio.to_thread(worker.start)
        await at(max(1, first // 2), "warm")
        # from `first` on up until one is not held, or down until one is
        calls, held = first, 0
        while True:
            levels.append(await at(calls, "find"))
            good = levels[-1]["p95_ms"] < LIMIT_MS and not levels[-1]["failed"]
            if good:
                held = calls
                if len(levels) > 1 and any(row["calls"] > calls for row in levels):
                    break
                calls = round(calls * STEP + 0.5)
            elif held or calls == 1:
                break
            else:
                calls = max(1, int(calls / STEP))
        loads = {share: await at(max(1, round(held * share / 100)), f"load{share}-") for share in SHARES}
    finally:
        await asyncio.to_thread(worker.stop)
        await admin.delete(astuple(topics), bootstrap_servers=servers)
    return Delays(held, levels, loads)
