"""How many real-time calls this machine carries: Kafka, one worker, the producer and the reader all on it.

    python -m bench.realtime_calls [--calls 10,20,40] [--look-ahead 6]

Plays more and more stereo calls at once in real time. A level is held if every call ended and the 95th percentile of
the partials' delay beyond their chunk stays under --limit-ms. Last line: one JSON object.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import uuid
from dataclasses import astuple

from rich.console import Console
from rich.table import Table

from demo.__main__ import MODEL, PARTITIONS
from demo.follow import Follower
from demo.score import CALLS, percentile, word_error_rate
from deploy.kafka import broker
from deploy.worker import LocalWorker
from producer import Producer
from producer.play import Style, play, sources
from wire import Topics, specs
from worker.ingest import topics as admin

Row = dict[str, float]


async def measure(servers: str, levels: list[int], options: argparse.Namespace, console: Console) -> list[Row]:
    topics = Topics(*(f"{name}.bench-{uuid.uuid4().hex[:6]}" for name in astuple(Topics())))
    await admin.create(specs(topics, PARTITIONS), bootstrap_servers=servers)
    settings: dict[str, object] = {"model.look_ahead": options.look_ahead, "batching.slots": 1024}
    settings["batching.max_batch"] = options.max_batch
    if options.threads:
        settings["model.threads"] = options.threads
    worker = LocalWorker(servers, topics, MODEL, settings=settings)
    rows = []
    try:
        await asyncio.to_thread(worker.start)
        for calls in levels:
            row = await level(servers, topics, worker, calls)
            rows.append(row)
            console.print(" ".join(f"{name} {value:.4g}" for name, value in row.items()))
            if row["p95_ms"] > options.limit_ms:
                break
    finally:
        await asyncio.to_thread(worker.stop)
        await admin.delete(astuple(topics), bootstrap_servers=servers)
    return rows


async def level(
    servers: str, topics: Topics, worker: LocalWorker, calls: int, seconds: float | None = None, name: str = "n"
) -> Row:
    """One round of `calls` calls, each for `seconds` if given; ids of their own, so that rounds share the topics."""
    tag = f"{name}{calls}-"
    stop = asyncio.Event()
    made = sources(sorted(CALLS.glob("*.flac")), calls, prefix=tag)
    streams = [f"{call.call_id}/{channel}" for call in made for channel in (0, 1)]
    names = ("trunkline_batch_streams", "trunkline_step_duration_seconds")
    before = [worker.metric(f"{name}_{kind}") for name in names for kind in ("sum", "count")]
    follower = Follower(servers, topics)
    await follower.start()
    cpu = os.times()
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, stop.set)
    async with Producer(servers, topic=topics.audio) as producer:
        played = await play(producer, made, Style(speed=1.0), stop=stop)
    failed = [p for p in played if p.error is not None]
    await follower.ended(streams, 120)
    await follower.stop()
    own = os.times()
    after = [worker.metric(f"{name}_{kind}") for name in names for kind in ("sum", "count")]
    batch, steps, seconds, _ = (b - a for a, b in zip(before, after, strict=True))
    seen = {s.removeprefix(tag): t.text for s, t in follower.transcripts.items() if s.startswith(tag)}
    length = max(p.seconds for p in played)
    return {
        "calls": calls,
        "wer": word_error_rate(seen)[0],
        "p50_ms": percentile(follower.late(tag), 50),
        "p95_ms": percentile(follower.late(tag), 95),
        "p99_ms": percentile(follower.late(tag), 99),
        **{f"finals_p{share}_ms": percentile(follower.late(tag, finals=True), share) for share in (50, 95, 99)},
        "batch": batch / steps,
        "step_ms": 1000 * seconds / steps,
        "engine_busy": seconds / length,
        "producer_cpu": (own.user + own.system - cpu.user - cpu.system) / length,
        "failed": len(failed),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", default="10,20,40,60,80,120,160")
    parser.add_argument("--look-ahead", type=int, default=6)
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--limit-ms", type=float, default=500)
    options = parser.parse_args()
    console = Console(width=140)
    with broker() as servers:
        rows = asyncio.run(measure(servers, [int(n) for n in options.calls.split(",")], options, console))
    table = Table(title=f"real-time stereo calls, demo model, look-ahead {options.look_ahead}")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" for value in row.values()))
    console.print(table)
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    held = max((int(row["calls"]) for row in rows if row["p95_ms"] <= options.limit_ms), default=0)
    print(json.dumps({"realtime_calls": held, "limit_ms": options.limit_ms, "levels": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
