"""The records of an audio topic around some offsets, as one reads them."""

from confluent_kafka import Consumer, TopicPartition

from tests.integration.support import unique
from wire import Audio, decode_record
from wire.fields import WireError

BEFORE = AFTER = 3


def records(servers: str, topic: str, partition: int, offsets: tuple[int, int]) -> list[str]:
    """A line for each record from a few before the first offset to a few after the last."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": unique("reader"), "enable.partition.eof": True})
    lines = []
    try:
        consumer.assign([TopicPartition(topic, partition, max(0, offsets[0] - BEFORE))])
        while (message := consumer.poll(10)) is not None and message.error() is None:
            if message.offset() > offsets[1] + AFTER:
                break
            lines.append(f"{message.offset()} {(message.key() or b'').decode()}: {_told(message.value() or b'')}")
    finally:
        consumer.close()
    return lines


def _told(value: bytes) -> str:
    try:
        record = decode_record(value)
    except WireError as error:
        return f"no record: {error}"
    if isinstance(record, Audio):
        return f"audio {record.sequence} at {record.position}, {len(record.payload)} bytes"
    return str(record)
