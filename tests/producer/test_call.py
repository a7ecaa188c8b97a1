"""Calls against a real Kafka, read back by an independent client."""

import asyncio
import uuid

import numpy as np
import pytest
from confluent_kafka import Producer as OtherProducer
from confluent_kafka.admin import AdminClient

from deploy.kafka import LocalKafka
from producer import Call, DeliveryError, Producer, ProducerError, StereoCall, channels
from tests.conftest import PARTITIONS
from tests.producer.support import payload, pcm, read_all, streams
from wire.fields import WireError
from wire.records import Audio, Flush, Options, Start
from wire.topics import Topics, specs
from worker.ingest import topics as admin
from worker.stream.pcm import decode

pytestmark = pytest.mark.kafka


def test_a_call_is_start_audio_flush_end_with_all_that_was_said(kafka, topics):
    async def talk():
        async with Producer(kafka, topics.audio) as producer:
            call = Call(
                producer,
                "call-7/1",
                sample_rate=16000,
                language="en-US",
                call_id="call-7",
                channel="customer",
                metadata={"site": "Tromsø", "priority": 2},
                options=Options(look_ahead=1, partials=False),
            )
            async with call:
                await call.send(pcm(320))
                await call.send(pcm(160, 1))
                assert await call.flush("now") == "now"
                await call.send(pcm(1, 2))
            assert call.confirmed == call.position == 481

    asyncio.run(talk())
    ((stream, records),) = streams(kafka, topics.audio).items()
    assert stream == "call-7/1"
    assert payload(records) == pcm(320) + pcm(160, 1) + pcm(1, 2)
    assert records[0] == Start(
        nonce=records[0].nonce,
        encoding="pcm_s16le",
        sample_rate=16000,
        language="en-US",
        call_id="call-7",
        channel="customer",
        metadata={"site": "Tromsø", "priority": 2},
        options=Options(look_ahead=1, partials=False),
    )
    assert records[3] == Flush("now", records[0].nonce, 480)


@pytest.mark.parametrize(
    ("samples", "sizes"),
    [(8000, [8000]), (8001, [800] * 10 + [1]), (20000, [800] * 25), (0, [])],
    ids=["one second stays whole", "longer is cut", "evenly", "nothing is no record"],
)
def test_pieces_over_a_second_are_cut_into_records_of_100_ms(kafka, topics, samples, sizes):
    async def talk():
        async with Producer(kafka, topics.audio) as producer, Call(producer, "c") as call:
            await call.send(pcm(samples))

    asyncio.run(talk())
    records = streams(kafka, topics.audio)["c"]
    assert payload(records) == pcm(samples)
    assert [len(record.payload) // 2 for record in records if isinstance(record, Audio)] == sizes


@pytest.mark.parametrize(("encoding", "width"), [("pcm_s16le", 2), ("pcm_f32le", 4), ("mulaw", 1), ("alaw", 1)])
def test_arrays_are_encoded(kafka, topics, encoding, width):
    wave = np.sin(np.arange(4000) * 0.1).astype(np.float32) * 0.8

    async def talk():
        async with Producer(kafka, topics.audio) as producer, Call(producer, "c", encoding=encoding) as call:
            await call.send(wave)
            await call.send(np.rint(wave * 32767).astype(np.int16))

    asyncio.run(talk())
    heard = decode(payload(streams(kafka, topics.audio)["c"], width), encoding)
    assert np.abs(heard - np.concatenate([wave, wave])).max() < (0.03 if width == 1 else 1e-4)


def test_partitions_are_those_of_the_java_partitioner(kafka, topics):
    ids = [f"call-{n}/{n % 2}" for n in range(40)] + ["ø", "日本/0"]

    async def talk():
        async with Producer(kafka, topics.audio) as producer:
            for stream_id in ids:
                async with Call(producer, stream_id):
                    pass

    asyncio.run(talk())
    ours = {read.stream: read.partition for read in read_all(kafka, topics.audio)}

    placed = {}
    other = OtherProducer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    for stream_id in ids:
        other.produce(
            topics.partial,
            b"",
            stream_id.encode(),
            on_delivery=lambda _, message: placed.update({message.key().decode(): message.partition()}),
        )
    assert other.flush(20) == 0
    assert ours == placed
    assert set(ours.values()) == set(range(PARTITIONS))


def test_an_exception_in_the_body_ends_the_call_and_goes_on(kafka, topics):
    class HungUp(Exception):
        pass

    async def talk():
        async with Producer(kafka, topics.audio) as producer:
            async with Call(producer, "c") as call:
                await call.send(pcm(800))
                raise HungUp

    with pytest.raises(HungUp):
        asyncio.run(talk())
    assert payload(streams(kafka, topics.audio)["c"]) == pcm(800)


def test_cancelling_ends_the_call(kafka, topics):
    async def talk():
        async with Producer(kafka, topics.audio) as producer:
            speaking = asyncio.Event()

            async def speak():
                async with Call(producer, "c") as call:
                    await call.send(pcm(800))
                    speaking.set()
                    await asyncio.sleep(60)

            task = asyncio.create_task(speak())
            await speaking.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(talk())
    assert payload(streams(kafka, topics.audio)["c"]) == pcm(800)


def test_tasks_that_share_a_call_and_calls_that_share_a_partition_stay_in_order(kafka, topics):
    async def talk():
        async with Producer(kafka, topics.audio) as producer, asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(speak(producer, f"call-{number}"))

    async def speak(producer, stream_id):
        async with Call(producer, stream_id) as call, asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(call.send(pcm(40_000)))

    asyncio.run(talk())
    found = streams(kafka, topics.audio)
    assert len(found) == 50
    assert all(payload(records) == pcm(40_000) * 2 for records in found.values())


def test_every_call_has_a_nonce_of_its_own(kafka, topics):
    async def talk():
        async with Producer(kafka, topics.audio) as producer:
            for _ in range(2):
                async with Call(producer, "c"):
                    pass

    asyncio.run(talk())
    first, _, second, _ = streams(kafka, topics.audio)["c"]
    assert first.nonce != second.nonce


def test_a_stereo_call_is_two_streams_that_share_the_call_id(kafka, topics):
    sound = np.frombuffer(pcm(30_000), np.int16).reshape(-1, 2)

    async def talk():
        async with (
            Producer(kafka, topics.audio) as producer,
            StereoCall(producer, "call-1", ("agent", "customer"), metadata={"k": "v"}) as call,
        ):
            await call.send(sound)
            await call.flush("all")
            with pytest.raises(ValueError, match=r"\[n, 2\]"):
                await call.send(sound[:, :1])

    asyncio.run(talk())
    found = streams(kafka, topics.audio)
    assert sorted(found) == channels("call-1", 2) == ["call-1/0", "call-1/1"]
    for index, (stream, name) in enumerate(zip(sorted(found), ("agent", "customer"), strict=True)):
        start = found[stream][0]
        assert (start.call_id, start.channel, start.metadata) == ("call-1", name, {"k": "v"})
        assert payload(found[stream]) == sound[:, index].astype("<i2").tobytes()
        assert any(record == Flush("all", start.nonce, 15_000) for record in found[stream])


def test_a_call_of_one_channel_is_its_own_stream():
    assert channels("call-1", 1) == ["call-1"]


def test_bytes_that_end_inside_a_sample_are_refused_and_the_call_goes_on(kafka, topics):
    async def talk():
        async with Producer(kafka, topics.audio) as producer, Call(producer, "c") as call:
            with pytest.raises(ValueError, match="5 bytes; pcm_s16le takes a multiple of 2"):
                await call.send(bytes(5))
            with pytest.raises(TypeError, match="int32"):
                await call.send(np.zeros(5, np.int32))
            with pytest.raises(ValueError, match="one dimension"):
                await call.send(np.zeros((5, 2), np.int16))
            await call.send(pcm(5))

    asyncio.run(talk())
    assert payload(streams(kafka, topics.audio)["c"]) == pcm(5)


def test_values_outside_the_contract_never_reach_kafka(kafka, topics):
    async def talk():
        async with Producer(kafka, topics.audio) as producer:
            with pytest.raises(WireError) as error:
                async with Call(producer, "c", sample_rate=7999):
                    pass
            assert error.value.reason == "unknown_sample_rate"
            with pytest.raises(WireError):
                Call(producer, "x" * 300)

    asyncio.run(talk())
    assert read_all(kafka, topics.audio) == []


def test_a_call_can_be_used_only_while_it_is_open(kafka, topics):
    async def talk():
        async with Producer(kafka, topics.audio) as producer:
            call = Call(producer, "c")
            with pytest.raises(RuntimeError, match="not open"):
                await call.send(pcm(1))
            async with call:
                pass
            with pytest.raises(RuntimeError, match="not open"):
                await call.flush()

    asyncio.run(talk())


def test_a_missing_topic_is_named_and_not_created(kafka):
    name = f"missing-{uuid.uuid4().hex}"

    async def start():
        async with Producer(kafka, name):
            pass

    with pytest.raises(ProducerError, match=name):
        asyncio.run(start())
    assert name not in AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=20).topics


def test_no_broker_is_an_error_in_time():
    async def start(port):
        async with Producer(f"127.0.0.1:{port}", start_timeout=2):
            pass

    async def mute():
        # Takes connections and never answers.
        async with await asyncio.start_server(lambda *_: asyncio.sleep(60), "127.0.0.1", 0) as server:
            await start(server.sockets[0].getsockname()[1])

    with pytest.raises(ProducerError, match=r"cannot reach Kafka at 127\.0\.0\.1:1:"):
        asyncio.run(asyncio.wait_for(start(1), 20))
    with pytest.raises(ProducerError, match="cannot reach Kafka"):
        asyncio.run(asyncio.wait_for(mute(), 20))


@pytest.mark.slow
def test_a_broker_that_dies_gives_an_error_that_says_what_is_not_confirmed(kafka):
    async def talk(broker):
        producer = Producer(broker.bootstrap_servers, delivery_timeout=4)
        async with producer, Call(producer, "call-9") as call:
            await call.send(pcm(8000))
            for _ in range(200):
                if call.confirmed == 8000:
                    break
                await asyncio.sleep(0.05)
            await asyncio.to_thread(broker.kill)
            for _ in range(1000):
                await call.send(pcm(800))
                await asyncio.sleep(0.1)

    with LocalKafka() as broker:
        asyncio.run(admin.create(specs(Topics(), 1), bootstrap_servers=broker.bootstrap_servers))
        with pytest.raises(DeliveryError, match=r"call-9: not confirmed from position 8000 \(1\.000 s\)") as error:
            asyncio.run(asyncio.wait_for(talk(broker), 60))
    assert (error.value.stream_id, error.value.position) == ("call-9", 8000)
