"""What is counted of Kafka's requests and of partials, against a real broker."""

import asyncio
import time

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.metadata import MetadataRequest

from wire.events import Head, Partial
from wire.topics import TopicSpec
from worker.delivery.partials import Partials
from worker.ingest import topics as admin
from worker.telemetry.kafka import observe
from worker.telemetry.metrics import Metrics

pytestmark = pytest.mark.kafka

NOBODY = 999  # a broker that the cluster has not


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(f"trunkline_{name}", labels)


def test_an_answered_request_is_timed_and_one_without_an_answer_counted(kafka):
    metrics = Metrics()

    async def ask():
        client = AIOKafkaClient(bootstrap_servers=kafka)
        await client.bootstrap()
        observe(client, metrics)
        try:
            await client.send(client.get_random_node(), MetadataRequest([]))
            with pytest.raises(KafkaError):
                await client.send(NOBODY, MetadataRequest([]))
        finally:
            await client.close()

    began = time.monotonic()
    asyncio.run(ask())
    assert value(metrics, "kafka_request_duration_seconds_count", request="Metadata") == 1
    assert 0 < value(metrics, "kafka_request_duration_seconds_sum", request="Metadata") < time.monotonic() - began
    assert value(metrics, "kafka_request_errors_total", request="Metadata") == 1


def test_a_partial_is_timed_from_its_record_and_one_that_the_broker_refuses_is_counted(kafka, topics):
    """The topic takes a few hundred bytes at once: a longer hypothesis is refused."""
    metrics, name = Metrics(), f"{topics.partial}.small"
    head = Head("s/0-1/0", "s", 0, "model", (1, 2))

    async def tell():
        await admin.create([TopicSpec(name, 1, {"max.message.bytes": "600"})], bootstrap_servers=kafka)
        partials = Partials(name, {"bootstrap_servers": kafka}, 15_000, metrics)
        running = asyncio.create_task(partials.run())
        try:
            for text, counter in (("short", "partial_delay_seconds_count"), ("long " * 300, "partials_lost_total")):
                partials.tell(0, "s", Partial(head, text, "", 0, 900), int(1000 * time.time()) - 3_000)
                async with asyncio.timeout(20):
                    while value(metrics, counter) < 1:  # noqa: ASYNC110  (a counter: nothing to await)
                        await asyncio.sleep(0.01)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await admin.delete([name], bootstrap_servers=kafka)

    asyncio.run(tell())
    assert value(metrics, "partial_delay_seconds_count") == value(metrics, "partials_lost_total") == 1
    assert 3 <= value(metrics, "partial_delay_seconds_sum") < 30
