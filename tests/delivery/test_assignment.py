"""What a worker does before it reads a partition, on a real Kafka: it fences nobody whom it has not outlived."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

from tests.conftest import PARTITIONS
from tests.integration.support import unique
from wire import Start, Topics
from wire.topics import specs
from worker.delivery.ledger import Batch, Ledger, Letter, TransactionalLedger
from worker.delivery.table import PARTITION_KEY, Row, TableError, encode_partition, encode_row, row_key
from worker.ingest import topics as admin
from worker.ingest.assignment import Restored, restore
from worker.settings import KafkaSettings
from worker.transcript.transcriber import Progress

pytestmark = pytest.mark.kafka

PARTITION = 2


class NoCheckpoints:
    async def fetch(self, row: Row) -> None:
        return None


class Place:
    """A partition of topics of its own, and the ledgers that were started for it."""

    def __init__(self, servers: str, topics: Topics) -> None:
        self.client = {"bootstrap_servers": servers}
        self.topics = topics
        self.settings = KafkaSettings(
            group=unique("assignment"),
            audio_topic=topics.audio,
            streams_topic=topics.streams,
            request_timeout_ms=10_000,
            transaction_timeout_ms=10_000,
        )
        self.begun: list[Ledger] = []

    @asynccontextmanager
    async def member(self) -> AsyncIterator[AIOKafkaConsumer]:
        """The group's only one."""
        consumer = AIOKafkaConsumer(
            **self.client,
            group_id=self.settings.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            heartbeat_interval_ms=20_000,
            session_timeout_ms=60_000,
        )
        consumer.subscribe([self.topics.audio])
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def restore(self, consumer: AIOKafkaConsumer) -> Restored:
        place = TopicPartition(self.topics.audio, PARTITION)
        try:
            return await restore(place, consumer, self.settings, self.client, self._ledger, NoCheckpoints())
        finally:
            for ledger in self.begun:
                await ledger.stop()

    def _ledger(self, number: int) -> Ledger:
        self.begun.append(TransactionalLedger(self.settings, self.client, number))
        return self.begun[-1]

    async def commit(self, rows: dict[bytes, bytes], offset: int) -> None:
        """As a worker does that is gone since."""
        ledger = TransactionalLedger(self.settings, self.client, PARTITION)
        await ledger.start()
        await ledger.write(Batch([], [Letter(self.topics.streams, *row) for row in rows.items()], offset))
        await ledger.stop()

    async def send(self, count: int) -> None:
        """Records on the audio topic."""
        async with AIOKafkaProducer(**self.client) as producer:
            for _ in range(count):
                await producer.send_and_wait(self.topics.audio, b"x", partition=PARTITION)


@pytest.fixture
def place(kafka: str, topics: Topics) -> Place:
    return Place(kafka, topics)


def test_a_member_is_given_a_ledger(place: Place) -> None:
    async def run() -> None:
        async with place.member() as consumer:
            assert (await place.restore(consumer)).ledger is place.begun[0]

    asyncio.run(run())


def test_whom_the_group_has_put_out_fences_nobody(place: Place) -> None:
    """Its partitions may have new owners that it has not heard of."""

    async def run() -> None:
        async with place.member() as consumer:
            coordinator = consumer._coordinator
            put_out = LeaveGroupRequest(place.settings.group, coordinator.member_id)
            await consumer._client.send(coordinator.coordinator_id, put_out, group=ConnectionGroup.DEFAULT)
            with pytest.raises(KafkaError):
                await place.restore(consumer)
            assert place.begun == []

    asyncio.run(run())


def test_a_table_of_another_group_is_refused(place: Place) -> None:
    async def run() -> None:
        await place.commit({PARTITION_KEY: encode_partition(0, "theirs")}, 0)
        async with place.member() as consumer:
            with pytest.raises(TableError) as refused:
                await place.restore(consumer)
        streams, group = place.topics.streams, place.settings.group
        assert str(refused.value) == (
            f"{streams} is the stream table of group 'theirs', this worker is of {group!r}: "
            "give each group a table of its own (kafka.streams_topic)"
        )

    asyncio.run(run())


@pytest.mark.parametrize("again", [1, 9], ids=["shorter", "longer"])
def test_the_table_of_a_topic_that_was_made_anew_begins_anew(again: int, place: Place) -> None:
    start = Start("n", "pcm_s16le", 16000)
    key = row_key("call", PARTITION, 1)

    async def run() -> None:
        await place.send(3)
        row = encode_row(Row("call", 1, "n", start, Progress(), "m"))
        await place.commit({key: row, PARTITION_KEY: encode_partition(3, place.settings.group)}, 1)
        async with place.member() as consumer:
            before = await place.restore(consumer)
            assert (list(before.table.live), before.resume) == ([key], 1)
        audio = [spec for spec in specs(place.topics, PARTITIONS) if spec.name == place.topics.audio]
        await admin.delete([place.topics.audio], **place.client)
        await made(audio, place.client)
        await place.send(again)
        async with place.member() as consumer:
            after = await place.restore(consumer)
        assert (list(after.table.live), after.table.stale, after.resume) == ([], [key], 0)

    asyncio.run(run())


async def made(wanted: list, client: dict[str, str]) -> None:
    """Make topics of which the brokers have just begun to delete the last of that name."""
    async with asyncio.timeout(20):
        while True:
            try:
                await admin.create(wanted, **client)
                return
            except Exception:
                await asyncio.sleep(0.2)
