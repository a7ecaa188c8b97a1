"""A transaction that is begun and aborted: whether this client may, how long it takes, and the brokers' clock.

It holds no record. Its abort leaves a marker in one partition, which no reader sees and whose time is the broker's.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest
from aiokafka.record.memory_records import MemoryRecords

POLL_S = 0.05
MARKER_S = 5.0  # the marker is written after the abort is answered


@dataclass(frozen=True, slots=True)
class Trial:
    """`seconds` it took; `ahead_s`: this machine's clock minus the broker's, 0 within the precision of the look."""

    seconds: float
    ahead_s: float


async def trial(
    client: AIOKafkaClient,
    options: dict[str, Any],
    transactional_id: str,
    place: TopicPartition,
    clock: Callable[[], float] = time.time,
) -> Trial:
    """Raises KafkaError, TimeoutError. options: keyword arguments of aiokafka's clients; clock: seconds since 1970."""
    began = time.monotonic()
    node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
    producer = await _ask(client, node, InitProducerIdRequest(transactional_id, 10_000))
    who = transactional_id, producer.producer_id, producer.producer_epoch
    added = await _retried(client, node, AddPartitionsToTxnRequest(*who, [(place.topic, [place.partition])]))
    for topic, partitions in added.errors:
        for _, code in partitions:
            if code:
                raise for_code(code)(topic)
    end = await _end(options, place)
    before = clock()
    await _retried(client, node, EndTxnRequest(*who, False))
    seconds = time.monotonic() - began
    marked = await _marker(client, place, end)
    after = clock()
    ahead = before - marked if marked < before else after - marked if marked > after else 0.0
    return Trial(seconds, ahead)


async def _retried(client: AIOKafkaClient, node: int, request: Any) -> Any:
    """Again while the coordinator is still busy with the transaction before."""
    while True:
        try:
            return await _ask(client, node, request)
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(POLL_S)


async def _ask(client: AIOKafkaClient, node: int, request: Any) -> Any:
    answer = await client.send(node, request)
    codes = [getattr(answer, "error_code", 0)]
    codes += [code for _, partitions in getattr(answer, "errors", []) for _, code in partitions]
    for code in codes:
        if code:
            raise for_code(code)()
    return answer


async def _end(options: dict[str, Any], place: TopicPartition) -> int:
    consumer = AIOKafkaConsumer(**options)
    try:
        await consumer.start()
        end: int = (await consumer.end_offsets([place]))[place]
        return end
    finally:
        await consumer.stop()


async def _marker(client: AIOKafkaClient, place: TopicPartition, offset: int) -> float:
    """The broker's time, s, in the first control batch at or after the offset. Raises TimeoutError."""
    async with asyncio.timeout(MARKER_S):
        while True:
            leader = client.cluster.leader_for_partition(place)
            asked = FetchRequest(200, 1, 1_000_000, 0, [(place.topic, [(place.partition, offset, 1_000_000)])])
            for _, partitions in (await client.send(leader, asked)).topics:
                records = MemoryRecords(partitions[0][-1] or b"")
                while records.has_next():
                    batch = records.next_batch()
                    offset = batch.next_offset
                    if batch.is_control_batch:
                        return float(batch.max_timestamp) / 1000
            await asyncio.sleep(POLL_S)
