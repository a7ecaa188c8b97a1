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
from aiokafka.errors import for_code
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.transaction import AddPartitionsToTxnRequest, EndTxnRequest, InitProducerIdRequest
from aiokafka.record.memory_records import MemoryRecords

from worker.doctor.rights import POLL_S, again

TIMEOUT_MS = 10_000  # the brokers abort this one by themselves after so long: until then it blocks readers
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
    timeout_ms: int,
    clock: Callable[[], float] = time.time,
) -> Trial:
    """Raises KafkaError, TimeoutError; InvalidTransactionTimeout if the brokers allow none of `timeout_ms`.

    options: keyword arguments of aiokafka's clients; clock: seconds since 1970.
    """
    began = time.monotonic()

    async def begin() -> tuple[int, Any]:
        node = await client.coordinator_lookup(CoordinationType.TRANSACTION, transactional_id)
        await _ask(client, node, InitProducerIdRequest(transactional_id, timeout_ms))
        return node, await _ask(client, node, InitProducerIdRequest(transactional_id, TIMEOUT_MS))

    node, producer = await again(begin)
    who = transactional_id, producer.producer_id, producer.producer_epoch
    add = AddPartitionsToTxnRequest(*who, [(place.topic, [place.partition])])
    await again(lambda: _ask(client, node, add))
    end = await _end(options, place)
    before = clock()
    await again(lambda: _ask(client, node, EndTxnRequest(*who, False)))
    seconds = time.monotonic() - began
    marked = await _marker(client, place, end)
    after = clock()
    ahead = before - marked if marked < before else after - marked if marked > after else 0.0
    return Trial(seconds, ahead)


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
        while (leader := client.cluster.leader_for_partition(place)) is None:
            await client.set_topics([place.topic])
        while True:
            asked = FetchRequest(200, 1, 1_000_000, 0, [(place.topic, [(place.partition, offset, 1_000_000)])])
            for _, partitions in (await client.send(leader, asked)).topics:
                records = MemoryRecords(partitions[0][-1] or b"")
                while records.has_next():
                    batch = records.next_batch()
                    offset = batch.next_offset
                    if batch.is_control_batch:
                        return float(batch.max_timestamp) / 1000
            await asyncio.sleep(POLL_S)
