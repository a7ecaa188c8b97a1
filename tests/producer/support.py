"""Reads the audio topic back with a client that shares nothing with the producer: librdkafka."""

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from wire.codec import decode_key, decode_record
from wire.records import Audio, End, Record


def pcm(samples: int, seed: int = 0) -> bytes:
    """Noise of 16 bits."""
    return np.random.default_rng(seed).integers(-32768, 32768, samples).astype("<i2").tobytes()


def damaged_flac(path: Path) -> None:
    """Ten seconds at 8 kHz, with a hole of zeros in the middle of its bytes."""
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 80_000), 8000)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)


@dataclass(frozen=True)
class Read:
    """One Kafka record, decoded. `time`: its Kafka timestamp in ms."""

    stream: str
    partition: int
    record: Record
    time: int


def read_all(servers: str, topic: str) -> list[Read]:
    """All records up to the end offsets of now, each partition's in order."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False})
    try:
        partitions = sorted(consumer.list_topics(topic, timeout=20).topics[topic].partitions)
        ends = {p: _end(consumer, TopicPartition(topic, p)) for p in partitions}
        consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
        found: list[Read] = []
        deadline = time.monotonic() + 30
        while len(found) < sum(ends.values()):
            assert time.monotonic() < deadline, f"{len(found)} of {sum(ends.values())} records"
            for message in consumer.consume(1000, timeout=1.0):
                assert message.error() is None, message.error()
                record = decode_record(message.value())
                found.append(Read(decode_key(message.key()), message.partition(), record, message.timestamp()[1]))
        return found
    finally:
        consumer.close()


def _end(consumer: Consumer, partition: TopicPartition) -> int:
    # A new partition's leader is in the metadata a moment before the broker acts as one.
    for _ in range(50):
        try:
            return consumer.get_watermark_offsets(partition, timeout=20)[1]
        except KafkaException as error:
            if not error.args[0].retriable() and error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:
                raise
        time.sleep(0.1)
    raise AssertionError(f"{partition} has no leader")


def streams(servers: str, topic: str) -> dict[str, list[Record]]:
    """Records by stream, in order; checks that each stream lies in one partition."""
    by_stream: dict[str, list[Record]] = {}
    places: dict[str, set[int]] = {}
    for read in read_all(servers, topic):
        by_stream.setdefault(read.stream, []).append(read.record)
        places.setdefault(read.stream, set()).add(read.partition)
    assert all(len(partitions) == 1 for partitions in places.values()), places
    return by_stream


def payload(records: list[Record], width: int = 2) -> bytes:
    """The stream's bytes; checks sequence numbers, positions, nonces, and that *end* is last and knows the length."""
    start, *rest, end = records
    audio = [record for record in rest if isinstance(record, Audio)]
    joined = b"".join(record.payload for record in audio)
    position = 0
    for sequence, record in enumerate(audio):
        assert (record.sequence, record.position) == (sequence, position)
        position += len(record.payload) // width
    assert isinstance(end, End)
    assert end.position == position == len(joined) // width
    assert {record.nonce for record in records} == {start.nonce}
    return joined


def without_repeats(records: list[Record]) -> list[Record]:
    """As the worker hears them: a record again is dropped, by its position. Checks that nothing comes out of order."""
    kept: list[Record] = []
    for record in records:
        if record in kept:
            continue
        assert not (kept and isinstance(kept[-1], End)), record
        kept.append(record)
    return kept
