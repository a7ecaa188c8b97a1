"""Brokers and clients that stand still: whoever waits for them gives up in time, and nothing goes on trying."""

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.kafka import KafkaUnavailable, LocalKafka
from tests.batching.fake import GEOMETRY
from tests.conftest import require
from tests.producer.broker import standing_still, topics_on
from wire import Topics
from worker import admission
from worker.batching.scheduler import Scheduler
from worker.delivery.ledger import Aborted, Batch, Letter, Lost, TransactionalLedger
from worker.delivery.table import PARTITION_KEY, encode_partition, read_table
from worker.leaving import stop_consumer
from worker.settings import KafkaSettings

pytestmark = pytest.mark.kafka

PARTITION = 1


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalKafka]:
    try:
        with LocalKafka() as started:
            yield started
    except KafkaUnavailable as missing:
        require(False, str(missing))


@pytest.fixture
def topics(broker: LocalKafka) -> Iterator[Topics]:
    with topics_on(broker) as names:
        yield names


def ledger_on(broker: LocalKafka, topics: Topics) -> TransactionalLedger:
    settings = KafkaSettings(
        audio_topic=topics.audio, group="stalled", request_timeout_ms=3000, transaction_timeout_ms=3000
    )
    return TransactionalLedger(settings, {"bootstrap_servers": broker.bootstrap_servers}, PARTITION)


def test_a_ledger_whose_brokers_stand_still_is_stopped_in_time_and_leaves_no_task(
    broker: LocalKafka, topics: Topics
) -> None:
    batch = Batch([Letter(topics.final, b"s", b"one")], [Letter(topics.streams, b"s", b"row")], 1)

    async def run() -> None:
        before = asyncio.all_tasks()
        ledger = ledger_on(broker, topics)
        await ledger.start()
        await ledger.write(batch)
        with standing_still(broker):
            with pytest.raises((Aborted, Lost)):
                await ledger.write(batch)
            began = time.monotonic()
            await ledger.stop()
            assert time.monotonic() - began < 6
            assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(run(), 30))


@pytest.fixture
def _endless_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stop(consumer: AIOKafkaConsumer) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(AIOKafkaConsumer, "stop", stop)


@pytest.mark.usefixtures("_endless_stop")
def test_a_table_is_read_though_the_reader_cannot_be_stopped(broker: LocalKafka, topics: Topics) -> None:
    async def run() -> None:
        ledger = ledger_on(broker, topics)
        await ledger.start()
        await ledger.write(Batch([], [Letter(topics.streams, PARTITION_KEY, encode_partition(7, None, "stalled"))], 7))
        await ledger.stop()
        table = await read_table({"bootstrap_servers": broker.bootstrap_servers}, topics.streams, PARTITION, 2.0)
        assert (table.read, table.group) == (7, "stalled")

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.usefixtures("_endless_stop")
def test_calls_come_back_though_the_reader_before_cannot_be_stopped(
    broker: LocalKafka, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "STOP_S", 1.0)

    async def run() -> None:
        client = {"bootstrap_servers": broker.bootstrap_servers}
        scheduler = Scheduler(GEOMETRY, 1, 1, 1)
        made = admission.Admission(scheduler, 10**6, list, topics.audio, client, SimpleNamespace())  # type: ignore[arg-type]
        home, returning = SimpleNamespace(number=PARTITION, dropped=True), SimpleNamespace(begun=False)
        await made._read(home, returning, {})  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(run(), 20))


def test_a_consumer_whose_fetch_has_just_failed_is_stopped_all_the_same(broker: LocalKafka, topics: Topics) -> None:
    """While it waits to fetch again, the client's own `stop` ends with a cancellation that nobody asked for."""

    async def run() -> None:
        before = asyncio.all_tasks()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest", retry_backoff_ms=3000
        )
        await consumer.start()
        consumer.assign([TopicPartition(topics.audio, PARTITION)])
        await consumer.position(TopicPartition(topics.audio, PARTITION))
        await asyncio.sleep(0.5)  # a fetch is under way
        await asyncio.to_thread(broker.kill)
        await asyncio.sleep(0.5)
        assert await asyncio.wait_for(stop_consumer(consumer, 10), 5)
        assert asyncio.all_tasks() == before

    try:
        asyncio.run(run())
    finally:
        broker.start()
