"""One partition's commits on a real Kafka: whole or not at all, and only by the ledger that was started last."""

import asyncio
import gc
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from tests.conftest import PARTITIONS
from tests.integration.offsets import committed
from tests.integration.support import unique
from wire.topics import TopicSpec
from worker.delivery.committer import RETRY_S, Committer
from worker.delivery.ledger import Aborted, Batch, Fenced, Letter, Lost, TransactionalLedger
from worker.ingest import topics as admin
from worker.settings import KafkaSettings
from worker.telemetry.kafka import observe
from worker.telemetry.metrics import Metrics

pytestmark = pytest.mark.kafka

PARTITION = 2


class Place:
    """A partition of topics of its own."""

    def __init__(self, servers, topics):
        self.servers = servers
        self.settings = KafkaSettings(
            bootstrap_servers=servers,
            group=unique("ledger"),
            audio_topic=topics.audio,
            final_topic=topics.final,
            rejected_topic=topics.rejected,
            streams_topic=topics.streams,
            transaction_timeout_ms=10_000,
            request_timeout_ms=10_000,
        )

    @asynccontextmanager
    async def ledger(self):
        ledger = TransactionalLedger(self.settings, {"bootstrap_servers": self.servers}, PARTITION)
        await ledger.start()
        try:
            yield ledger
        finally:
            await ledger.stop()
            gc.collect()  # the client of a ledger that was shut out leaves a task behind whose error nobody asks for

    def batch(self, *values, offset=1):
        """Finals with these values, and a row that says the same."""
        letters = [Letter(self.settings.final_topic, b"s", value, [("name", b"x")]) for value in values]
        return Batch(letters, [Letter(self.settings.streams_topic, b"s/2-0", b"row " + values[0][:9])], offset)

    async def visible(self, topic):
        """Values that a read_committed reader sees, up to the end as of now."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.servers, isolation_level="read_committed")
        place = TopicPartition(topic, PARTITION)
        await consumer.start()
        try:
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            found = []
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(place, timeout_ms=100)).values():
                    found += [record.value for record in records]
            return found
        finally:
            await consumer.stop()

    async def state(self):
        offset = (await asyncio.to_thread(committed, self.servers, self.settings.group, self.settings.audio_topic))[
            PARTITION
        ]
        topics = (self.settings.final_topic, self.settings.streams_topic)
        return [await self.visible(topic) for topic in topics], offset


@pytest.fixture
def place(kafka, topics):
    return Place(kafka, topics)


NOTHING = ([[], []], -1001)


def test_a_batch_is_visible_whole_with_its_offset(place):
    async def run():
        async with place.ledger() as ledger:
            await ledger.write(place.batch(b"one", b"two", offset=7))
            assert await place.state() == ([[b"one", b"two"], [b"row one"]], 7)
            await ledger.write(Batch([], [], 9))
            assert await place.state() == ([[b"one", b"two"], [b"row one"]], 9)

    asyncio.run(run())


@pytest.fixture
def narrow(place):
    """A place whose finals may take 10 kB."""
    small = TopicSpec(unique("small"), PARTITIONS, {"max.message.bytes": "10000"})
    asyncio.run(admin.create([small], bootstrap_servers=place.servers))
    place.settings = place.settings.model_copy(update={"final_topic": small.name})
    yield place
    asyncio.run(admin.delete([small.name], bootstrap_servers=place.servers))


@pytest.mark.parametrize("size", [2_000_000, 20_000])  # refused by the client, by the broker
def test_a_send_that_fails_takes_all_of_the_batch_with_it(size, narrow, caplog):
    async def run():
        async with narrow.ledger() as ledger:
            with pytest.raises(Aborted):
                await ledger.write(narrow.batch(b"one", b"x" * size, b"two"))
            assert await narrow.state() == NOTHING
        async with narrow.ledger() as ledger:
            await ledger.write(narrow.batch(b"three", offset=3))
            assert await narrow.state() == ([[b"three"], [b"row three"]], 3)

    asyncio.run(run())
    gc.collect()
    assert "never retrieved" not in caplog.text  # one error is raised for the batch, and it is enough


class Batches:
    """A partition that has these to commit."""

    number = PARTITION

    def __init__(self, *batches):
        self.wanted = asyncio.Event()
        self.wanted.set()
        self._batches = [*batches]

    def collect(self):
        return self._batches.pop(0) if self._batches else None

    def published(self):
        pass


def test_a_ledger_that_the_broker_refuses_again_and_again_is_given_up(narrow):
    """After one refused record aiokafka's sequence numbers have a hole: whatever comes next is refused, too."""

    async def run():
        metrics = Metrics()
        async with narrow.ledger() as ledger:
            with pytest.raises(Aborted):
                await ledger.write(narrow.batch(b"x" * 20_000))
            batches = Batches(narrow.batch(b"one"))
            settings = narrow.settings.model_copy(update={"commit_interval_ms": 100})
            committer = Committer(batches, ledger, settings, metrics, lambda keys: None)
            async with asyncio.timeout(20):
                with pytest.raises(Lost):
                    await committer.run()
            assert await narrow.state() == NOTHING
        assert metrics.registry.get_sample_value("trunkline_transactions_total", {"outcome": "lost"}) == 1
        aborted = metrics.registry.get_sample_value("trunkline_transactions_total", {"outcome": "aborted"})
        assert aborted == len(RETRY_S) + 1
        assert metrics.registry.get_sample_value("trunkline_producers_fenced_total") == 0

    asyncio.run(run())


def test_a_later_ledger_shuts_out_an_earlier_one(place):
    async def run():
        async with place.ledger() as first:
            await first.write(place.batch(b"one", offset=1))
            async with place.ledger() as second:
                metrics = Metrics()
                late = Batches(place.batch(b"two", offset=2))
                with pytest.raises(Fenced):
                    await Committer(late, first, place.settings, metrics, lambda keys: None).commit()
                assert metrics.registry.get_sample_value("trunkline_producers_fenced_total") == 1
                assert await place.state() == ([[b"one"], [b"row one"]], 1)
                await second.write(place.batch(b"three", offset=3))
                assert await place.state() == ([[b"one", b"three"], [b"row one", b"row three"]], 3)

    asyncio.run(run())


def test_requests_are_timed_and_those_without_an_answer_counted(place):
    async def run():
        metrics = Metrics()

        def value(name, request):
            return metrics.registry.get_sample_value(f"trunkline_kafka_request_{name}", {"request": request})

        async with place.ledger() as ledger:
            observe(ledger.client, metrics)
            await ledger.write(place.batch(b"one", b"two", offset=7))
            assert value("duration_seconds_count", "Produce") >= 1
            assert value("duration_seconds_count", "EndTxn") == 1
            assert 0 < value("duration_seconds_sum", "EndTxn") < 10
            assert value("errors_total", "EndTxn") == 0
            with pytest.raises(KafkaError):
                await ledger.client.send(4711, MetadataRequest([]))  # no such broker
            assert value("errors_total", "Metadata") == 1

    asyncio.run(run())


def test_what_an_earlier_ledger_left_open_is_ended_when_the_next_one_starts(place):
    async def run():
        async with place.ledger() as first:
            await first._producer.begin_transaction()
            await first._send(place.batch(b"one").letters)
            async with place.ledger() as second:
                # at once: nobody waits for the time-out of a transaction that is still open
                async with asyncio.timeout(5):
                    assert await place.visible(place.settings.final_topic) == []
                await second.write(place.batch(b"two", offset=2))
                assert await place.state() == ([[b"two"], [b"row two"]], 2)

    asyncio.run(run())


@pytest.mark.parametrize("held", [False, True])
def test_a_commit_that_was_left_half_way_is_not_written_again(narrow, held):
    """Its caller gave up in the last step (a drain's deadline, a rebalance); the brokers did it all the same."""

    async def run():
        async with narrow.ledger() as ledger:
            commit = ledger._producer.commit_transaction
            under_way = []
            reached = asyncio.Event()

            async def slowly():
                under_way.append(asyncio.create_task(commit()))
                reached.set()
                await asyncio.Event().wait()

            ledger._producer.commit_transaction = slowly
            committer = Committer(
                Batches(narrow.batch(b"once"), narrow.batch(b"more")), ledger, narrow.settings, Metrics(), print
            )
            given_up = asyncio.create_task(committer.commit())
            await reached.wait()
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            ledger._producer.commit_transaction = commit
            await asyncio.gather(*under_way)
            with pytest.raises(Lost):
                await (committer.run() if held else committer.commit())
        return await narrow.visible(narrow.settings.final_topic)

    assert asyncio.run(run()) == [b"once"]
