"""How long a call stands still when its worker is killed, with each state store, by the call's length.

    python -m bench.recovery [--lengths 30,120,480] [--session-timeout-ms 6000]

Two workers, one partition, one call. The call has been heard for so many seconds when its worker is killed (-9);
at that moment a *flush* is sent, and the time until a `read_committed` reader has its marker is what a caller waits.
It holds the group's session time-out, which is the same for both stores, and the replay, which is not.
Last line: one JSON object.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import numpy as np
import soundfile
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console
from rich.table import Table

from demo.__main__ import MODEL
from demo.score import CALLS
from deploy.kafka import broker
from deploy.redis import LocalRedis
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from wire import Audio, End, Flush, Marker, Start, Topics, decode_final, encode_record, specs
from worker.ingest import topics as admin

STREAM = b"call"
RECORD_S = 0.1


def speech(seconds: float) -> tuple[np.ndarray, int]:
    """A call's first channel, again and again."""
    samples, rate = soundfile.read(sorted(CALLS.glob("*.flac"))[0], dtype="int16", always_2d=True)
    count = int(seconds * rate)
    return np.tile(samples[:, 0], -(-count // len(samples)))[:count], int(rate)


async def one(servers: str, zygote: Zygote, seconds: float, settings: Mapping[str, object]) -> dict[str, float]:
    topics = Topics(*(f"{name}.bench-{uuid.uuid4().hex[:6]}" for name in astuple(Topics())))
    client = {"bootstrap_servers": servers}
    await admin.create(specs(topics, 1), **client)
    workers = [LocalWorker(servers, topics, MODEL, "bench", settings, zygote=zygote) for _ in range(2)]
    reader = AIOKafkaConsumer(**client, isolation_level="read_committed", auto_offset_reset="earliest")
    producer = AIOKafkaProducer(**client, linger_ms=5)
    await asyncio.gather(reader.start(), producer.start())
    reader.assign([TopicPartition(topics.final, 0)])
    try:
        for worker in workers:
            await asyncio.to_thread(worker.start, False)
        for worker in workers:
            await asyncio.to_thread(worker.wait_ready)
        samples, rate = speech(seconds)
        size = int(RECORD_S * rate)
        records: list[Any] = [Start("n", "pcm_s16le", rate)]
        records += [
            Audio(n, n * size, samples[n * size : (n + 1) * size].tobytes(), "n") for n in range(len(samples) // size)
        ]
        for record in [*records, Flush("before", "n")]:
            await producer.send(topics.audio, encode_record(record), key=STREAM, partition=0)
        await producer.flush()
        await marker(reader, "before")
        await asyncio.sleep(4)  # a commit moves rows and offsets, a checkpoint has been written
        owner = max(workers, key=lambda worker: worker.metric("trunkline_partitions_assigned"))
        other = next(worker for worker in workers if worker is not owner)
        replayed = other.metric("trunkline_replayed_audio_seconds_total")
        await asyncio.to_thread(owner.kill)
        began = time.monotonic()
        await producer.send_and_wait(topics.audio, encode_record(Flush("after", "n")), key=STREAM, partition=0)
        await marker(reader, "after")
        took = time.monotonic() - began
        await producer.send_and_wait(topics.audio, encode_record(End("n")), key=STREAM, partition=0)
        return {
            "recovery_s": round(took, 2),
            "replayed_s": round(other.metric("trunkline_replayed_audio_seconds_total") - replayed, 1),
            "checkpoints": owner_metric(other, "restored"),
        }
    finally:
        await asyncio.gather(reader.stop(), producer.stop())
        for worker in workers:
            if worker.process.poll() is None:
                await asyncio.to_thread(worker.stop)
        await admin.delete(astuple(topics), **client)


def owner_metric(worker: LocalWorker, outcome: str) -> float:
    return worker.metric("trunkline_checkpoints_total", outcome=outcome)


async def marker(reader: AIOKafkaConsumer, flush: str) -> None:
    async with asyncio.timeout(300):
        async for record in reader:
            event = decode_final(record.value)
            if isinstance(event, Marker) and event.flush_id == flush:
                return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lengths", default="30,120,480", help="seconds of the call heard before (%(default)s)")
    parser.add_argument("--session-timeout-ms", type=int, default=6000)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    console = Console(width=110)
    rows: list[dict[str, Any]] = []
    common = {"model.threads": 1, "kafka.session_timeout_ms": options.session_timeout_ms}
    with broker() as servers, LocalRedis() as redis, Zygote() as zygote:
        stores: dict[str, dict[str, object]] = {
            "device": {},
            "redis": {"state.store": "redis", "state.redis_url": redis.url},
        }
        for seconds in map(float, options.lengths.split(",")):
            for store, settings in stores.items():
                found = asyncio.run(one(servers, zygote, seconds, common | settings))
                rows.append({"store": store, "heard_s": seconds, **found})
                console.print(rows[-1])
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="kill -9 to the next marker")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    print(
        f"session time-out {options.session_timeout_ms} ms; {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}; everything on one machine"
    )
    print(json.dumps({"recovery": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
