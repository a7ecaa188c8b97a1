"""What committing costs: requests, processor time, latency of a partition's transactions, at 1, 10 and 48 partitions.

    python -m bench.commits [--partitions 1,10,48] [--rate 2] [--seconds 10]

Every partition commits `--rate` times a second: two finals, two rows and an offset each, through the worker's own
ledger to a real Kafka on this machine. Then the same without transactions (`kafka.delivery: at_least_once`).
Last line: one JSON object.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import resource
import statistics
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.api import Request
from aiokafka.protocol.commit import OffsetCommitRequest
from rich.console import Console
from rich.table import Table

from deploy.kafka import broker
from wire import Topics, specs
from worker.delivery.ledger import Batch, Ledger, Letter, PlainLedger, TransactionalLedger
from worker.ingest import topics as admin
from worker.settings import KafkaSettings

Row = dict[str, float | str]


class Counting:
    """Counts what commits send: every request of the ledgers' producers, and the commits of the consumer's group."""

    def __init__(self, ledgers: Sequence[Ledger], consumer: AIOKafkaConsumer) -> None:
        self.requests = 0
        for ledger in ledgers:
            self._watch(ledger._producer.client, Request)
        self._watch(consumer._client, OffsetCommitRequest)  # its other requests are for reading

    def _watch(self, client: AIOKafkaClient, kind: type[Request]) -> None:
        send = client.send

        async def counted(node: int, request: Request, **options: Any) -> Any:
            self.requests += isinstance(request, kind)
            return await send(node, request, **options)

        client.send = counted


def batch(topics: Topics, offset: int) -> Batch:
    finals = [Letter(topics.final, b"stream", os.urandom(400), [("input-timestamp", b"0")]) for _ in range(2)]
    return Batch(finals, [Letter(topics.streams, b"row-%d" % n, os.urandom(250)) for n in range(2)], offset)


async def commit_often(ledger: Ledger, topics: Topics, rate: float, until: float, taken: list[float]) -> None:
    offset = 0
    while time.monotonic() < until:
        began = time.monotonic()
        offset += 1
        await ledger.write(batch(topics, offset))
        taken.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, 1 / rate - (time.monotonic() - began)))


async def measure(servers: str, partitions: int, delivery: str, options: argparse.Namespace) -> Row:
    topics = Topics(*(f"{name}.bench-{uuid.uuid4().hex[:6]}" for name in astuple(Topics())))
    client = {"bootstrap_servers": servers}
    await admin.create(specs(topics, partitions), **client)
    names = dict(zip(("audio", "final", "partial", "rejected", "streams"), astuple(topics), strict=True))
    settings = KafkaSettings(group=uuid.uuid4().hex, **{f"{key}_topic": name for key, name in names.items()})
    consumer = AIOKafkaConsumer(**client, group_id=settings.group, enable_auto_commit=False)
    consumer.subscribe([topics.audio])
    await consumer.start()
    while len(consumer.assignment()) < partitions:  # noqa: ASYNC110 the client has no event for it
        await asyncio.sleep(0.1)
    for number in range(partitions):  # positions, so that the consumer asks for none
        consumer.seek(TopicPartition(topics.audio, number), 0)
    ledgers: Sequence[Ledger] = [
        TransactionalLedger(settings, client, number)
        if delivery == "exactly_once"
        else PlainLedger(settings, client, number, consumer)
        for number in range(partitions)
    ]
    began = time.monotonic()
    await asyncio.gather(*(ledger.start() for ledger in ledgers))
    started = time.monotonic() - began
    counter = Counting(ledgers, consumer)
    taken: list[float] = []
    try:
        warm = [ledger.write(batch(topics, 0)) for ledger in ledgers]
        await asyncio.gather(*warm)
        counter.requests = 0
        cpu = _cpu()
        until = time.monotonic() + options.seconds
        await asyncio.gather(*(commit_often(ledger, topics, options.rate, until, taken) for ledger in ledgers))
        cpu = _cpu() - cpu
    finally:
        await asyncio.gather(*(ledger.stop() for ledger in ledgers))
        await consumer.stop()
        await admin.delete(astuple(topics), **client)
    taken.sort()
    return {
        "delivery": delivery,
        "partitions": partitions,
        "start_s": round(started, 2),
        "commits_per_s": round(len(taken) / options.seconds, 1),
        "requests_per_commit": round(counter.requests / len(taken), 1),
        "cpu_ms_per_commit": round(1000 * cpu / len(taken), 2),
        "cpu_cores": round(cpu / options.seconds, 3),
        "p50_ms": round(1000 * statistics.median(taken), 1),
        "p95_ms": round(1000 * taken[int(0.95 * len(taken))], 1),
    }


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--partitions", default="1,10,48")
    parser.add_argument("--rate", type=float, default=2.0, help="commits of a partition a second (%(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # new topics have no leaders for a moment
    console = Console(width=120)
    rows = []
    with broker() as servers:
        for delivery in ("exactly_once", "at_least_once"):
            for count in map(int, options.partitions.split(",")):
                rows.append(asyncio.run(measure(servers, count, delivery, options)))
                console.print(f"{delivery}, {count} partitions done")
    table = Table(*(name.replace("_", " ") for name in rows[0]), title="commits of two finals and two rows")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table)
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}; Kafka on the same machine"
    )
    print(json.dumps({"commits": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
