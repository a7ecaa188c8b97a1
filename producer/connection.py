"""One client of Kafka, started and stopped within a time of ours."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder

from producer.stopping import stop_producer

# A batch of one partition: some records of each of many calls. A record that is larger travels alone.
MAX_BATCH_BYTES = 128 * 1024
# Stopping after all calls have ended takes milliseconds; without a broker it would never return.
STOP_TIMEOUT_S = 2.0


def unreachable(servers: str, error: Exception, timeout_s: float) -> str:
    """Why a client did not start, in a sentence."""
    match error:
        case TimeoutError():
            why = f"no answer in {timeout_s:g} s"
        case KafkaConnectionError():  # its text is a list of Python objects
            why = "no connection to any broker there"
        case _:
            why = str(error)
    return f"cannot reach Kafka at {servers}: {why}"


class Connection:
    """An idempotent Kafka producer and the batches that it has in flight.

    spent: one batch failed. With it a sequence number was used up that the broker never saw, and the broker would
    refuse every later batch of that partition, so such a connection only ends what it has in flight.
    """

    def __init__(self, topic: str, settings: dict[str, Any]) -> None:
        self.topic = topic
        self.spent = False
        self.in_flight = 0
        self._kafka = AIOKafkaProducer(
            **{
                "max_batch_size": MAX_BATCH_BYTES,
                **settings,
                "acks": "all",
                "enable_idempotence": True,
                "linger_ms": 0,
            }
        )

    async def start(self, timeout_s: float) -> None:
        """Connect. Raises TimeoutError, KafkaError, OSError, or ValueError for an address that is none."""
        async with asyncio.timeout(timeout_s):
            await self._kafka.start()

    async def partitions(self) -> list[int] | None:
        """The topic's partitions; None if there is no such topic. Raises KafkaError."""
        # All topics, because asking for one by name would create it on a broker that allows that.
        known = (await self._kafka.client.fetch_all_metadata()).topics()
        return sorted(await self._kafka.partitions_for(self.topic)) if self.topic in known else None

    def batch(self) -> BatchBuilder:
        return self._kafka.create_batch()

    async def send(self, batch: BatchBuilder, partition: int) -> asyncio.Future[Any]:
        """Hand over a batch of a partition that has none in flight; the result is done when it is confirmed."""
        batch.close()
        confirmed: asyncio.Future[Any] = await self._kafka.send_batch(batch, self.topic, partition=partition)
        return confirmed

    async def stop(self) -> None:
        """Disconnect, in any case within some seconds."""
        await stop_producer(self._kafka, STOP_TIMEOUT_S)
