"""A broker that stands still, dies, comes back or refuses: what is lost, what is said."""

import asyncio
import os
import signal
import time

import numpy as np
import pytest
from aiokafka.structs import TopicPartition

from producer import Call, DeliveryError, Producer, StereoCall
from tests.producer.broker import standing_still, topics_on
from tests.producer.support import payload, pcm, read_all, streams, without_repeats
from wire.records import Audio, End, Start
from wire.topics import Topics, specs
from worker.ingest import topics as admin

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

RATE = 8000
STEP = RATE // 10


@pytest.fixture
def topics(broker):
    with topics_on(broker) as names:
        yield names


async def until(holds, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def confirmed(call: Call) -> None:
    await until(lambda: call.confirmed == call.position)


async def speak(call: Call, sound: bytes, steps: range) -> None:
    """In real time."""
    for step in steps:
        await call.send(sound[2 * step * STEP : 2 * (step + 1) * STEP])
        await asyncio.sleep(0.1)


def test_a_broker_that_stands_still_for_less_than_the_deadline_costs_nothing(broker, topics):
    sounds = {f"c{n}": pcm(60 * STEP, n) for n in range(8)}

    async def one(producer, stream, sound):
        async with Call(producer, stream) as call:
            await speak(call, sound, range(60))

    async def talk():
        async with Producer(broker.bootstrap_servers, topics.audio, delivery_timeout=30) as producer:
            async with asyncio.TaskGroup() as group:
                for stream, sound in sounds.items():
                    group.create_task(one(producer, stream, sound))
                await asyncio.sleep(1)
                with standing_still(broker):
                    await asyncio.sleep(4)
                    assert producer.waiting_s > 3
                    assert producer.waiting_bytes > 8 * 25 * 2 * STEP
            assert producer.waiting_bytes == 0
            assert producer.waiting_s == 0

    asyncio.run(talk())
    found = streams(broker.bootstrap_servers, topics.audio)
    assert {stream: payload(records) for stream, records in found.items()} == sounds


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_restarts_within_the_deadline_costs_nothing(broker, topics, how):
    """The client gives up its batches after a second here, as it would after 40 by default, and loses its place."""
    sounds = {f"c{n}": pcm(40 * STEP, n) for n in range(8)}

    async def one(producer, stream, sound, half):
        async with Call(producer, stream) as call:
            await speak(call, sound, range(20))
            half.release()
            await speak(call, sound, range(20, 40))

    async def talk():
        half = asyncio.Semaphore(0)
        producer = Producer(broker.bootstrap_servers, topics.audio, delivery_timeout=90, request_timeout_ms=1000)
        async with producer, asyncio.TaskGroup() as group:
            for stream, sound in sounds.items():
                group.create_task(one(producer, stream, sound, half))
            for _ in sounds:
                await half.acquire()
            await asyncio.to_thread(getattr(broker, how))
            await asyncio.sleep(2)
            await asyncio.to_thread(broker.start)

    asyncio.run(talk())
    found = streams(broker.bootstrap_servers, topics.audio)
    assert {stream: payload(without_repeats(records)) for stream, records in found.items()} == sounds


def test_a_sequence_number_that_the_broker_never_saw_is_overcome(broker, topics):
    """As an expired batch leaves it: the broker refuses all that follows on this connection."""

    async def talk():
        async with Producer(broker.bootstrap_servers, topics.audio) as producer:
            async with Call(producer, "c") as call, Call(producer, "d") as other:
                await call.send(pcm(800))
                await confirmed(call)
                numbers = producer._outbox._connection._kafka._txn_manager
                partition = TopicPartition(topics.audio, producer.partition(b"c"))
                numbers.increment_sequence_number(partition, 7)
                for seed in (1, 2, 3):
                    await call.send(pcm(800, seed))
                    await other.send(pcm(800, seed))
                    await asyncio.sleep(0.1)
            assert call.confirmed == 3200

    asyncio.run(talk())
    found = streams(broker.bootstrap_servers, topics.audio)
    assert payload(without_repeats(found["c"])) == b"".join(pcm(800, seed) for seed in range(4))
    assert payload(without_repeats(found["d"])) == b"".join(pcm(800, seed) for seed in (1, 2, 3))


def test_a_longer_outage_names_what_is_not_confirmed_of_each_stream(broker, topics):
    sound = np.frombuffer(pcm(2 * 200 * STEP), "<i2").reshape(-1, 2)

    async def talk():
        async with Producer(broker.bootstrap_servers, topics.audio, delivery_timeout=3) as producer:
            call = StereoCall(producer, "call-9")
            async with call:
                await call.send(sound[: 5 * STEP])
                for channel in call.calls:
                    await confirmed(channel)
                os.kill(broker.pid, signal.SIGSTOP)
                for step in range(5, 200):
                    await call.send(sound[step * STEP : (step + 1) * STEP])
                    await asyncio.sleep(0.1)

    began = time.monotonic()
    try:
        with pytest.raises(DeliveryError) as error:
            asyncio.run(asyncio.wait_for(talk(), 40))
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert time.monotonic() - began < 25
    told = [str(error.value), *error.value.__notes__]
    assert sorted(text.split(":")[0] for text in told) == ["call call-9/0", "call call-9/1"]
    for text in told:
        assert "not confirmed from position 4000 (0.500 s) to 2" in text
        assert "no answer in 3 s" in text
    # all before the position is there, and what was sent later may be, but in order
    for channel, (stream, records) in enumerate(sorted(streams(broker.bootstrap_servers, topics.audio).items())):
        assert stream == f"call-9/{channel}"
        heard = [record for record in without_repeats(records) if isinstance(record, Audio)]
        assert b"".join(r.payload for r in heard)[:8000] == sound[:4000, channel].astype("<i2").tobytes()
        assert [r.position for r in heard] == sorted(r.position for r in heard)


def test_a_call_goes_on_after_another_call_on_its_partition_has_failed(broker, topics):
    """The first call's batch is still at the client when its time is up; the second call's time is not."""

    async def talk():
        async with Producer(broker.bootstrap_servers, topics.audio, delivery_timeout=4) as producer:
            late = Call(producer, "same")
            call = Call(producer, "c")
            await call.__aenter__()
            await confirmed(call)
            with standing_still(broker):
                await call.send(pcm(800))
                await asyncio.sleep(3)
                await late.__aenter__()
                await late.send(pcm(800, 1))
                await asyncio.sleep(2)
            with pytest.raises(DeliveryError):
                await call.send(pcm(800))
            with pytest.raises(DeliveryError):
                await call.__aexit__(None, None, None)
            await late.__aexit__(None, None, None)

    asyncio.run(talk())
    assert payload(streams(broker.bootstrap_servers, topics.audio)["same"]) == pcm(800, 1)


def test_when_the_queue_is_full_sending_waits_and_says_so(broker, topics, caplog):
    sound = pcm(400 * STEP)

    async def talk():
        producer = Producer(broker.bootstrap_servers, topics.audio, queue_bytes=100_000)
        async with producer, Call(producer, "c") as call:
            await confirmed(call)

            async def hurry():
                for step in range(400):
                    await call.send(sound[2 * step * STEP : 2 * (step + 1) * STEP])

            with standing_still(broker):
                task = asyncio.create_task(hurry())
                await asyncio.sleep(1)
                held, sent = producer.waiting_bytes, call.sequence
                assert 100_000 <= held < 110_000
                assert 30 < sent < 70
                await asyncio.sleep(0.5)
                assert (producer.waiting_bytes, call.sequence) == (held, sent)
            await asyncio.wait_for(task, 30)

    asyncio.run(talk())
    assert payload(streams(broker.bootstrap_servers, topics.audio)["c"]) == sound
    assert any("the queue is full, and sending waits" in record.message for record in caplog.records)


def test_a_source_that_cannot_wait_leaves_a_hole_that_the_worker_sees(broker, topics, caplog):
    sound = pcm(100 * STEP)

    async def talk():
        producer = Producer(broker.bootstrap_servers, topics.audio, queue_bytes=50_000)
        async with producer, Call(producer, "c", when_full="drop") as call:
            await confirmed(call)
            taken = []
            with standing_still(broker):
                for step in range(80):
                    began = time.monotonic()
                    taken.append(await call.send(sound[2 * step * STEP : 2 * (step + 1) * STEP]))
                    assert time.monotonic() - began < 0.1
            await until(producer.has_room)
            for step in range(80, 100):
                taken.append(await call.send(sound[2 * step * STEP : 2 * (step + 1) * STEP]))
                await asyncio.sleep(0.01)
        assert call.dropped == taken.count(False) * STEP
        assert call.position == 100 * STEP
        return taken

    taken = asyncio.run(talk())
    assert not all(taken[:80])
    assert all(taken[80:])
    start, *rest, end = streams(broker.bootstrap_servers, topics.audio)["c"]
    assert isinstance(start, Start)
    assert end == End(start.nonce, 100 * STEP)
    # sequence counts on, position tells the hole
    assert [record.sequence for record in rest] == list(range(taken.count(True)))
    assert [record.position // STEP for record in rest] == [step for step, there in enumerate(taken) if there]
    for record in rest:
        assert record.payload == sound[2 * record.position : 2 * (record.position + STEP)]
    assert any("audio is dropped from" in record.message for record in caplog.records)


def test_no_room_until_the_deadline_is_an_error(broker, topics):
    async def talk():
        producer = Producer(broker.bootstrap_servers, topics.audio, queue_bytes=20_000, delivery_timeout=2)
        async with producer, Call(producer, "c") as call:
            await confirmed(call)
            with standing_still(broker):
                for _ in range(100):
                    await call.send(pcm(800))

    with pytest.raises(DeliveryError, match=r"call c: not confirmed from position 0 .*: no (room|answer) in 2 s"):
        asyncio.run(asyncio.wait_for(talk(), 30))


def test_stopping_does_not_wait_for_a_broker_that_is_gone(broker, topics):
    async def talk():
        producer = Producer(broker.bootstrap_servers, topics.audio, delivery_timeout=1)
        before = asyncio.all_tasks()
        await producer.start()
        call = Call(producer, "c")
        await call.__aenter__()
        await confirmed(call)
        with standing_still(broker):
            await call.send(pcm(800))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await producer.stop()
            assert time.monotonic() - began < 8
            assert asyncio.all_tasks() == before  # none is left that tries for ever

    asyncio.run(asyncio.wait_for(talk(), 30))


def test_a_topic_with_a_small_limit_gets_smaller_batches_and_one_large_record_hurts_its_own_call_only(broker):
    topics = Topics(audio="small")
    (spec,) = (s for s in specs(topics, 1) if s.name == topics.audio)
    spec.config["max.message.bytes"] = "20000"
    asyncio.run(admin.create([spec], bootstrap_servers=broker.bootstrap_servers))

    async def talk():
        async with (
            Producer(broker.bootstrap_servers, topics.audio, delivery_timeout=30) as producer,
            Call(producer, "fine") as fine,
        ):
            large = Call(producer, "large", sample_rate=16000)
            await large.__aenter__()
            await fine.send(pcm(50 * STEP))
            await large.send(pcm(16000))
            await fine.send(pcm(50 * STEP, 1))
            with pytest.raises(DeliveryError, match=r"call large: not confirmed from position 0 .*MessageSizeTooLarge"):
                await large.__aexit__(None, None, None)

    asyncio.run(talk())
    records = streams(broker.bootstrap_servers, topics.audio)["fine"]
    assert payload(without_repeats(records)) == pcm(50 * STEP) + pcm(50 * STEP, 1)
    assert {read.partition for read in read_all(broker.bootstrap_servers, topics.audio)} == {0}
