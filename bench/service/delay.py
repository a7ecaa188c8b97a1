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
FACTOR = 1.5  # from one level to the next, until one is not held; then halves of what lies between
NEAR = 0.1
LEVELS = 7
SETTINGS: dict[str, object] = {"batching.slots": 512, "batching.max_batch": 64, "model.threads": 1}


@dataclass(frozen=True)
class Delays:
    """`held`: stereo calls at once, twice. `levels`: all that were tried; `loads`: by percent of what is held."""

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
        held, missed, calls = 0, 0, first
        while calls > held and len(levels) < LEVELS:
            levels.append(await at(calls, "find"))
            if _held(levels[-1]):
                held = calls
            else:
                missed = calls
            calls = (held + missed) // 2 if missed else round(calls * FACTOR)
            if held and missed and missed - held <= NEAR * held:
                break
        while held:  # one good quarter of a minute may be luck
            levels.append(await at(held, "again"))
            if _held(levels[-1]):
                break
            held -= max(1, round(held * NEAR))
        loads = {share: await at(max(1, round(held * share / 100)), f"load{share}-") for share in SHARES}
    finally:
        await asyncio.to_thread(worker.stop)
        await admin.delete(astuple(topics), bootstrap_servers=servers)
    return Delays(held, levels, loads)


def _held(row: Row) -> bool:
    return bool(row["p95_ms"] < LIMIT_MS and not row["failed"])
