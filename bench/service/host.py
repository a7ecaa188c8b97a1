"""What one record of 100 ms costs the host from the fetch to the session's samples: one core, in microseconds.

Decoding, the stream's order, G.711 and resampling included; the model is not. The records are on a real Kafka, read by
the worker's own consumer settings and taken by its own `Partition`.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any
from unittest.mock import patch

from aiokafka import AIOKafkaConsumer, TopicPartition

import worker.partition
import worker.stream.session
from bench.looped import Loop
from tests.batching.fake import GEOMETRY, INFO, MODES
from tests.conftest import own_topics
from tests.integration.sending import Sender
from wire import Audio
from worker.batching.scheduler import Scheduler
from worker.delivery.outbox import Outbox
from worker.delivery.partials import Partials
from worker.delivery.table import Table
from worker.ingest.reader import FETCH_WAIT_MS
from worker.live import Deployment
from worker.settings import KafkaSettings, StreamSettings
from worker.stream.resample import Resampler
from worker.telemetry.metrics import Metrics

RECORDS = 4_000
RECORD_MS = 100

# What `accept` is made of: the functions that do it, where they are looked up.
PARTS: dict[str, list[tuple[Any, str]]] = {
    "decode the record": [(worker.partition, "decode_key"), (worker.partition, "decode_record")],
    "G.711 to float": [(worker.stream.session, "decode")],
    "resample": [(Resampler, "process")],
    "hand to the scheduler": [(Scheduler, "push")],
}
REST = "the stream's order, segments, counters"


@dataclass(frozen=True)
class Cost:
    """Microseconds of processor time a record: the least of all rounds, and the median.

    `parts`: of the least of as many rounds in which each part had a clock; `REST` is what none of them covers.
    """

    least: float
    usual: float
    parts: dict[str, float]


def cost(servers: str, streams: Sequence[Loop], rounds: int) -> Cost:
    with own_topics(servers) as topics:
        sender = Sender(servers, topics.audio)
        iterators = [loop.records(10**6, RECORD_MS) for loop in streams]
        for _ in range(RECORDS // len(streams)):
            for number, records in enumerate(iterators):
                record = next(records)
                told = [record] if isinstance(record, Audio) else [record, next(records)]
                sender.put(f"stream-{number}", told, 0)
        sender.flush()
        sender.close()
        found: list[float] = []
        clocked: list[dict[str, float]] = []
        for _ in range(rounds):
            found.append(sum(asyncio.run(_round(servers, topics.audio, len(streams))).values()))
            inside: dict[str, float] = {}
            with clocks(inside):
                spent = asyncio.run(_round(servers, topics.audio, len(streams)))
            inside = {name: 1e6 * seconds / RECORDS for name, seconds in inside.items()}
            rest = spent["accept"] - sum(inside.values())
            clocked.append({"fetch": spent["fetch"], **inside, REST: rest})
    return Cost(min(found), median(found), min(clocked, key=lambda parts: sum(parts.values())))


async def _round(servers: str, topic: str, streams: int) -> dict[str, float]:
    """All records once, in turns as the reader takes them."""
    settings, metrics = KafkaSettings(audio_topic=topic), Metrics()
    scheduler = Scheduler(GEOMETRY, streams, streams, 28)
    partition = worker.partition.Partition(
        0,
        0,
        Table(),
        {},
        Deployment(StreamSettings(), MODES[1], INFO, scheduler),
        Outbox(0, settings.topics, Partials(settings.partial_topic, {}, 1000, metrics)),
        settings,
        metrics,
    )
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        isolation_level="read_committed",
        max_poll_records=settings.max_poll_records,
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    await consumer.start()
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    spent = {"fetch": 0.0, "accept": 0.0}
    taken = 0
    try:
        end = (await consumer.end_offsets([place]))[place]
        while partition.next_offset < end:
            began = time.process_time()  # of all threads: waiting for the broker costs nothing
            batches = await consumer.getmany(timeout_ms=100)
            read = time.process_time()
            for records in batches.values():
                for record in records:
                    partition.accept(record.key, record.value, record.offset, record.timestamp)
                taken += len(records)
            spent["fetch"] += read - began
            spent["accept"] += time.process_time() - read
            _hear(scheduler)
    finally:
        await consumer.stop()
    return {name: 1e6 * seconds / taken for name, seconds in spent.items()}


def _hear(scheduler: Scheduler) -> None:
    """Take the audio away as the model's thread does, so that its memory is used again."""
    while scheduler.occupancy().ready:
        batch = scheduler.take()
        assert batch is not None
        scheduler.done(batch)


@contextmanager
def clocks(spent: dict[str, float]) -> Iterator[None]:
    """Adds up the seconds within the functions of PARTS, where they are. One call costs the clock 0.1 us."""
    with ExitStack() as stack:
        for name, places in PARTS.items():
            spent[name] = 0.0
            for owner, attribute in places:
                timed = _timed(getattr(owner, attribute), name, spent)
                stack.enter_context(patch.object(owner, attribute, timed))
        yield


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] += time.perf_counter() - began

    return timed
