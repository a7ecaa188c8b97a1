"""Offsets of topics and consumer groups, as librdkafka sees them."""

import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.conftest import PARTITIONS
from tests.integration.support import unique


def end_offsets(servers: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": unique("reader")})
    try:
        return {p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20)[1] for p in range(PARTITIONS)}
    finally:
        consumer.close()


def place_group(servers: str, group: str, topic: str, offsets: Mapping[int, int]) -> None:
    """Make a group that has no members begin at these offsets."""
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False})
    try:
        wanted = [TopicPartition(topic, p, offset) for p, offset in offsets.items()]
        for done in consumer.commit(offsets=wanted, asynchronous=False):
            if done.error is not None:
                raise KafkaException(done.error)
    finally:
        consumer.close()


def committed(servers: str, group: str, topic: str) -> dict[int, int]:
    """The group's committed offsets; -1001 where there is none."""
    # not by AdminClient.list_consumer_group_offsets: on a cluster that has no group yet it ends the process
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False})
    try:
        wanted = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        deadline = time.monotonic() + 20
        while True:
            try:
                places = consumer.committed(wanted, timeout=20)
                break
            except KafkaException:  # a new cluster has no coordinator for a moment
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    finally:
        consumer.close()
    return {place.partition: place.offset for place in places}
