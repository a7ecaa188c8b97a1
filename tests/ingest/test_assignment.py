"""What a partition begins with, on a real Kafka: the table goes before the group's offset, for its own topic only."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest
from confluent_kafka.admin import AdminClient

from tests.integration.support import unique
from wire.topics import Topics, specs
from worker.delivery.ledger import Batch, Letter, TransactionalLedger
from worker.delivery.table import PARTITION_KEY, Row, TableError, encode_partition
from worker.ingest import topics as admin
from worker.ingest.assignment import Restored, restore
from worker.settings import KafkaSettings

pytestmark = pytest.mark.kafka

PARTITION = 1
RECORDS = 8


class NoCheckpoints:
    async def fetch(self, row: Row) -> None:
        return None


class Place:
    """A partition with records on it, and a group that may have read them."""

    def __init__(self, servers: str, topics: Topics) -> None:
        self.client = {"bootstrap_servers": servers}
        self.topics = topics
        self.place = TopicPartition(topics.audio, PARTITION)
        self.group = unique("assignment")

    def settings(self, group: str) -> KafkaSettings:
        topics = self.topics
        return KafkaSettings(
            **self.client,
            group=group,
            audio_topic=topics.audio,
            final_topic=topics.final,
            rejected_topic=topics.rejected,
            streams_topic=topics.streams,
            request_timeout_ms=10_000,
        )

    async def send(self, count: int) -> list[int]:
        """Their timestamps."""
        producer = AIOKafkaProducer(**self.client)
        await producer.start()
        try:
            sent = [await producer.send_and_wait(self.topics.audio, b"x", partition=PARTITION) for _ in range(count)]
        finally:
            await producer.stop()
        return [record.timestamp for record in sent]

    @asynccontextmanager
    async def owner(self, group: str):
        consumer = AIOKafkaConsumer(**self.client, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            consumer.assign([self.place])
            yield consumer
        finally:
            await consumer.stop()

    @asynccontextmanager
    async def member(self):
        """The group's only one, which will not soon hear if it is put out."""
        consumer = AIOKafkaConsumer(
            **self.client,
            group_id=self.group,
            enable_auto_commit=False,
            heartbeat_interval_ms=20_000,
            session_timeout_ms=60_000,
        )
        consumer.subscribe([self.topics.audio])
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def restored(self, group: str | None = None, then: Callable[[Restored], Awaitable[None]] | None = None):
        settings = self.settings(group or self.group)

        def ledger(number: int) -> TransactionalLedger:
            return TransactionalLedger(settings, self.client, number)

        async with self.owner(settings.group) as consumer:
            found = await restore(self.place, consumer, settings, self.client, ledger, NoCheckpoints())
            try:
                if then is not None:
                    await then(found)
            finally:
                await found.ledger.stop()
            return found

    async def read_by_the_group(self) -> None:
        """The group has read all but the last record, and its table says so."""
        stamps = await self.send(RECORDS)

        async def commit(found: Restored) -> None:
            row = encode_partition(RECORDS - 1, stamps[-2], self.group)
            await found.ledger.write(Batch([], [Letter(self.topics.streams, PARTITION_KEY, row)], RECORDS - 1))

        await self.restored(then=commit)

    async def made_anew(self) -> None:
        await admin.delete([self.topics.audio], **self.client)
        wanted = [spec for spec in specs(self.topics, 4) if spec.name == self.topics.audio]
        deadline = time.monotonic() + 20
        while not (await admin.create(wanted, **self.client)).created:  # brokers take a moment to forget it
            assert time.monotonic() < deadline
            await asyncio.sleep(0.2)


@pytest.fixture
def place(kafka: str, topics: Topics) -> Place:
    return Place(kafka, topics)


def test_what_was_read_is_not_read_again(place: Place) -> None:
    async def test() -> None:
        await place.read_by_the_group()
        found = await place.restored()
        assert (found.resume, found.table.read) == (RECORDS - 1, RECORDS - 1)

    asyncio.run(test())


def test_a_group_whose_offsets_are_forgotten_goes_on_where_its_table_ends(place: Place) -> None:
    async def test() -> None:
        await place.read_by_the_group()
        client = AdminClient({"bootstrap.servers": place.client["bootstrap_servers"]})
        (deleted,) = client.delete_consumer_groups([place.group]).values()
        deleted.result(20)
        found = await place.restored()
        assert (found.resume, found.table.read) == (RECORDS - 1, RECORDS - 1)

    asyncio.run(test())


@pytest.mark.parametrize("records", [2, 2 * RECORDS])
def test_a_topic_made_anew_is_read_from_its_beginning_however_often_that_is_tried(place: Place, records: int) -> None:
    async def test() -> None:
        await place.read_by_the_group()
        await place.made_anew()
        await place.send(records)
        for _ in range(2):  # the first may have died before it committed anything but the group's offset
            found = await place.restored()
            assert (found.resume, found.table.read) == (0, None)

    asyncio.run(test())


def test_the_table_of_another_group_is_refused(place: Place) -> None:
    async def test() -> None:
        await place.read_by_the_group()
        with pytest.raises(TableError, match="give each group a table of its own"):
            await place.restored(unique("other"))

    asyncio.run(test())


def test_whom_the_group_has_put_out_fences_nobody(place: Place) -> None:
    """Its partitions may have new owners that it has not heard of."""
    settings = place.settings(place.group)
    begun: list[TransactionalLedger] = []

    def ledger(number: int) -> TransactionalLedger:
        begun.append(TransactionalLedger(settings, place.client, number))
        return begun[-1]

    async def test() -> None:
        async with place.member() as consumer:
            found = await restore(place.place, consumer, settings, place.client, ledger, NoCheckpoints())
            await found.ledger.stop()
            assert begun == [found.ledger]
            coordinator = consumer._coordinator
            put_out = LeaveGroupRequest(place.group, coordinator.member_id)
            await consumer._client.send(coordinator.coordinator_id, put_out, group=ConnectionGroup.DEFAULT)
            with pytest.raises(KafkaError):
                await restore(place.place, consumer, settings, place.client, ledger, NoCheckpoints())
            assert begun == [found.ledger]

    asyncio.run(test())
