"""The producer's queue on a broker that answers all the time."""

import asyncio

import pytest

from producer import Call, Producer
from tests.producer.support import payload, pcm, streams

pytestmark = pytest.mark.kafka

STEP = 800


def test_a_queue_that_is_full_again_and_again_is_said_once(kafka, topics, caplog):
    async def talk():
        full = 0
        async with Producer(kafka, topics.audio, queue_bytes=20_000) as producer, Call(producer, "c") as call:
            for step in range(300):
                full += not producer.has_room()
                await call.send(pcm(STEP, step))
        return full

    assert asyncio.run(talk()) > 5
    assert caplog.text.count("the queue is full") == 1


def test_a_long_queue_is_no_silence_while_kafka_confirms(kafka, topics):
    """Batches of one record, so that the queue is long though the broker is quick."""

    async def talk():
        silences = []
        async with Producer(kafka, topics.audio, queue_bytes=4000 * 2100, max_batch_size=2000) as producer:
            async with Call(producer, "c") as call:
                while producer.waiting_s < 0.6:
                    await call.send(pcm(STEP))
                    if producer.waiting_s > 0.4:
                        silences.append(producer.silent_s)
            assert producer.silent_s == 0
        return silences, call.position

    silences, samples = asyncio.run(talk())
    assert sorted(silences)[len(silences) // 2] < 0.15
    assert len(payload(streams(kafka, topics.audio)["c"])) == 2 * samples
