"""What feeding a real-time stream costs a producer process, and how many streams one process feeds.

    python -m bench.producer_cost [--streams 100,200,400,800,1600,2400,3200] [--seconds 8]

Streams of 8 kHz, 16 bit, in records of 100 ms, to a real Kafka on this machine. "library": a task for each stream,
as a live source has, with its bytes at hand. "files": `trunkline produce` on stereo FLAC, reading and decoding
included. CPU is the producer process's own. A level is held if all is confirmed and 99 of 100 records leave less than
--limit-ms late. Last line: one JSON object.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from bench.wire_decode import processor
from deploy.kafka import broker
from producer import Call, Producer
from producer.play import Progress, Style, play, sources
from wire import Topics, specs
from worker.ingest import topics as admin

RATE = 8000
RECORD_MS = 100
PARTITIONS = 12
Row = dict[str, float | str]


async def library(producer: Producer, streams: int, seconds: float, late: list[float]) -> None:
    """A task for each stream: it sleeps until the next record is spoken, and sends it."""
    sound = np.random.default_rng(0).integers(-9000, 9000, 10 * RATE).astype("<i2").tobytes()
    size = 2 * RATE * RECORD_MS // 1000
    clock = asyncio.get_running_loop().time

    async def one(number: int) -> None:
        async with Call(producer, f"call-{number}", sample_rate=RATE) as call:
            begin = clock() + 1 + number / streams * RECORD_MS / 1000
            for index in range(int(seconds * 1000 / RECORD_MS)):
                due = begin + index * RECORD_MS / 1000
                await asyncio.sleep(due - clock())
                late.append(clock() - due)
                at = index * size % len(sound)
                await call.send(sound[at : at + size])

    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(one(number))


async def files(producer: Producer, streams: int, seconds: float, late: list[float]) -> None:
    """Stereo FLAC files, each played by several calls."""
    clock = asyncio.get_running_loop().time
    begun: dict[str, list[float]] = {}

    def note(progress: Progress) -> None:
        if not progress.done:
            begun.setdefault(progress.source.call_id, []).append(clock() - progress.seconds)

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.flac" for number in range(10)]
        for seed, path in enumerate(paths):
            noise = np.random.default_rng(seed).normal(0, 0.1, (int(seconds * RATE), 2))
            soundfile.write(path, noise, RATE)
        results = await play(producer, sources(paths, streams // 2), Style(chunk_ms=RECORD_MS), note)
    failed = [result.error for result in results if result.error]
    if failed:
        raise failed[0]
    # against each call's most punctual record, since when it began is known to it alone
    late += [at - min(each) for each in begun.values() for at in each]


async def feed(kind: str, servers: str, topic: str, streams: int, seconds: float) -> Row:
    """One level, in this process."""
    late: list[float] = []
    async with Producer(servers, topic) as producer:
        began, cpu = time.monotonic(), time.process_time()
        await {"library": library, "files": files}[kind](producer, streams, seconds, late)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
    records = int(streams * seconds * 1000 / RECORD_MS)
    return {
        "kind": kind,
        "streams": streams,
        "records": records,
        "us_a_record": 1e6 * cpu / records,
        "cores": cpu / took,
        "late_p50_ms": 1000 * float(np.percentile(late, 50)),
        "late_p99_ms": 1000 * float(np.percentile(late, 99)),
        "took_s": took,
    }


async def full_speed(servers: str, topic: str, seconds: float) -> Row:
    """Two hundred streams as fast as they go."""
    records = int(200 * seconds * 100)
    sound = bytes(2 * RATE * RECORD_MS // 1000)

    async def one(producer: Producer, number: int) -> None:
        async with Call(producer, f"fast-{number}", sample_rate=RATE) as call:
            for _ in range(records // 200):
                await call.send(sound)

    async with Producer(servers, topic) as producer:
        began, cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(producer, number))
        cpu, took = time.process_time() - cpu, time.monotonic() - began
    return {
        "kind": "full speed",
        "streams": 200,
        "records": records,
        "us_a_record": 1e6 * cpu / records,
        "cores": cpu / took,
        "took_s": took,
    }


def level(*arguments: object) -> Row:
    """A level in a fresh process."""
    command = [sys.executable, "-m", "bench.producer_cost", "--level", *map(str, arguments)]
    row: Row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return row


def measure(servers: str, options: argparse.Namespace, console: Console) -> list[Row]:
    topic = f"{Topics().audio}.bench-{os.getpid()}"
    (spec,) = (spec for spec in specs(Topics(audio=topic), PARTITIONS) if spec.name == topic)
    asyncio.run(admin.create([spec], bootstrap_servers=servers))
    rows = []
    try:
        for kind in ("library", "files"):
            for streams in map(int, options.streams.split(",")):
                row = level(kind, servers, topic, streams, options.seconds)
                rows.append(row)
                console.print(row)
                if float(row["late_p99_ms"]) > options.limit_ms:
                    break
        rows.append(level("full speed", servers, topic, 200, options.seconds))
    finally:
        asyncio.run(admin.delete([topic], bootstrap_servers=servers))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--streams", default="100,200,400,800,1600,2400,3200")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--limit-ms", type=float, default=100.0)
    parser.add_argument("--level", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.level:
        kind, servers, topic, streams, seconds = options.level
        if kind == "full speed":
            row = asyncio.run(full_speed(servers, topic, float(seconds)))
        else:
            row = asyncio.run(feed(kind, servers, topic, int(streams), float(seconds)))
        print(json.dumps(row))
        return 0
    console = Console(width=140)
    with broker() as servers:
        rows = measure(servers, options, console)
    table = Table(title="a producer process: streams of 8 kHz, 16 bit, records of 100 ms")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        cells = (row.get(name, "") for name in rows[0])
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    console.print(table)
    console.print(f"{processor()}; Python {platform.python_version()}")
    held = {
        kind: max(
            (int(r["streams"]) for r in rows if r["kind"] == kind and float(r["late_p99_ms"]) <= options.limit_ms),
            default=0,
        )
        for kind in ("library", "files")
    }
    print(json.dumps({"bench": "producer_cost", "held_streams": held, "limit_ms": options.limit_ms, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
