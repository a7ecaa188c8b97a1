"""What one record of 100 ms costs the host from the fetch to the session's samples: one core, in microseconds.

Decoding, the stream's order, G.711 and resampling included; the model is not. The records are on a real Kafka, read by
the worker's own consumer settings and taken by its own `Partition`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

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
from worker.partition import Partition
from worker.settings import KafkaSettings, StreamSettings
from worker.telemetry.metrics import Metrics

RECORDS = 12_000
RECORD_MS = 100


@dataclass(frozen=True)
class Cost:
    """Microseconds of processor time a record: the least of all rounds, and the median. `parts`: of the least."""

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
        found = [asyncio.run(_round(servers, topics.audio, len(streams))) for _ in range(rounds)]
    found.sort(key=lambda parts: sum(parts.values()))
    sums = [sum(parts.values()) for parts in found]
    return Cost(sums[0], median(sums), found[0])


async def _round(servers: str, topic: str, streams: int) -> dict[str, float]:
    """All records once, in turns as the reader takes them."""
    settings, metrics = KafkaSettings(audio_topic=topic), Metrics()
    partition = Partition(
        0,
        0,
        Table(),
        {},
        Deployment(StreamSettings(), MODES[1], INFO, Scheduler(GEOMETRY, streams, streams, 28)),
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
    finally:
        await consumer.stop()
    return {name: 1e6 * seconds / taken for name, seconds in spent.items()}


def parts(streams: Sequence[Loop], repeat: int = 5) -> dict[str, float]:
    """What `accept` is made of, each step by itself on the same records: the least of `repeat` rounds."""
    from wire.codec import decode_key, decode_record, encode_record
    from worker.stream.pcm import decode
    from worker.stream.resample import Resampler

    records: list[Audio] = []
    narrow = [loop for loop in streams if loop.rate == 8000]  # the others need no resampling
    for loop in narrow:
        told = [record for record in loop.records(4, RECORD_MS) if isinstance(record, Audio)]
        records += told[:200]
    values = [encode_record(record) for record in records]
    sounds = [decode(record.payload, "mulaw") for record in records]
    resampler = Resampler(8000, GEOMETRY.sample_rate)
    steps: dict[str, Callable[[], Any]] = {
        "decode the record": lambda: [(decode_key(b"stream-1"), decode_record(value)) for value in values],
        "G.711 to float": lambda: [decode(record.payload, "mulaw") for record in records],
        "resample": lambda: [resampler.process(sound) for sound in sounds],
    }
    found = {}
    for name, step in steps.items():
        least = float("inf")
        for _ in range(repeat):
            began = time.process_time()
            step()
            least = min(least, time.process_time() - began)
        found[name] = 1e6 * least / len(records)
    return found
