"""What feeding a real-time stream costs a producer process, and how many streams one process feeds.

    python -m bench.producer_cost [--streams 100,200,400,800,1600,2400,3200] [--seconds 8]

Streams of 8 kHz, 16 bit, in records of 100 ms, to a real Kafka on this machine. "library": a task for each stream,
as a live source has, with its bytes at hand. "files": `trunkline produce` on stereo FLAC, reading and decoding
included. CPU is the producer process's own. A record is late by the time from when its audio is there to Kafka's
confirmation. A level is held if all is confirmed, 99 of 100 records less than --limit-ms late. Last line: one JSON
object.
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
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from bench.wire_decode import processor
from deploy.kafka import broker
from producer import Call, Producer
from producer.outbox import Sink
from producer.play import Style, play, sources
from wire import Topics, specs
from worker.ingest import topics as admin

RATE = 8000
RECORD_MS = 100
PARTITIONS = 12
Row = dict[str, float | str]


class Timed(Producer):
    """Notes when each record comes, and when it is confirmed, beside the time at which its audio was complete.

    Times are of the loop's clock, in seconds, less the record's place in its stream: those of a stream that is never
    late are all equal.
    """

    def __init__(self, servers: str, topic: str) -> None:
        super().__init__(servers, topic)
        self.begun: dict[bytes, float] = {}  # the stream's first sample; else its most punctual record tells
        self._came: dict[bytes, list[float]] = defaultdict(list)
        self._confirmed: dict[bytes, list[float]] = defaultdict(list)

    def put(self, partition: int, sink: Sink, key: bytes, value: bytes, position: int, end: int) -> None:
        if end > position:
            clock, place = asyncio.get_running_loop().time, end / RATE
            self._came[key].append(clock() - place)
            sink = Stamp(sink, self._confirmed[key], clock, place)
        super().put(partition, sink, key, value, position, end)

    def late(self) -> list[float]:
        """Seconds from a record's last sample to its confirmation, of all records confirmed."""
        begun = {key: min(came) for key, came in self._came.items()} | self.begun
        return [at - begun[key] for key, each in self._confirmed.items() for at in each]


class Stamp:
    """Passes on what became of a record, and notes when it was confirmed."""

    __slots__ = ("_at", "_clock", "_place", "_sink")

    def __init__(self, sink: Sink, at: list[float], clock: Callable[[], float], place: float) -> None:
        self._sink, self._at, self._clock, self._place = sink, at, clock, place

    def confirmed(self, end: int) -> None:
        self._at.append(self._clock() - self._place)
        self._sink.confirmed(end)

    def lost(self, position: int, reason: str) -> None:
        self._sink.lost(position, reason)


async def library(producer: Timed, streams: int, seconds: float) -> None:
    """A task for each stream: it sleeps until the next record is spoken, and sends it."""
    sound = np.random.default_rng(0).integers(-9000, 9000, 10 * RATE).astype("<i2").tobytes()
    size = 2 * RATE * RECORD_MS // 1000
    clock = asyncio.get_running_loop().time

    async def one(number: int) -> None:
        async with Call(producer, f"call-{number}", sample_rate=RATE) as call:
            begin = clock() + 1 + number / streams * RECORD_MS / 1000
            producer.begun[f"call-{number}".encode()] = begin
            for index in range(int(seconds * 1000 / RECORD_MS)):
                await asyncio.sleep(begin + (index + 1) * RECORD_MS / 1000 - clock())
                at = index * size % len(sound)
                await call.send(sound[at : at + size])

    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(one(number))


async def files(producer: Timed, streams: int, seconds: float) -> None:
    """Stereo FLAC files, each played by several calls."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.flac" for number in range(10)]
        for seed, path in enumerate(paths):
            noise = np.random.default_rng(seed).normal(0, 0.1, (int(seconds * RATE), 2))
            soundfile.write(path, noise, RATE)
        results = await play(producer, sources(paths, streams // 2), Style(chunk_ms=RECORD_MS))
    failed = [result.error for result in results if result.error]
    if failed:
        raise failed[0]


async def feed(kind: str, servers: str, topic: str, streams: int, seconds: float) -> Row:
    """One level, in this process."""
    async with Timed(servers, topic) as producer:
        began, cpu = time.monotonic(), time.process_time()
        await {"library": library, "files": files}[kind](producer, streams, seconds)
        cpu, took = time.process_time() - cpu, time.monotonic() - began
    records = int(streams * seconds * 1000 / RECORD_MS)
    late = producer.late()
    assert len(late) >= records  # a file's last records of each channel are shorter
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


def held(row: Row, limit_ms: float) -> bool:
    """Whether a level was fed in real time."""
    return float(row["late_p99_ms"]) <= limit_ms


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
                if not held(row, options.limit_ms):
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
    most = {
        kind: max((int(r["streams"]) for r in rows if r["kind"] == kind and held(r, options.limit_ms)), default=0)
        for kind in ("library", "files")
    }
    print(json.dumps({"bench": "producer_cost", "held_streams": most, "limit_ms": options.limit_ms, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
