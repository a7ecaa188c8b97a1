"""The connection to Kafka that all calls of a process share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.partitioner import DefaultPartitioner

from wire.topics import Topics

log = logging.getLogger(__name__)

# Little against a record of 100 ms, enough for the calls of one partition to share a request.
LINGER_MS = 5
# A client buffers one batch a partition and then blocks: this holds some records of each of many calls.
MAX_BATCH_BYTES = 128 * 1024
# Stopping after all calls have ended takes milliseconds; without a broker it would never return.
STOP_TIMEOUT_S = 5.0


class ProducerError(RuntimeError):
    """The producer cannot work: no broker in time, or no topic."""


class DeliveryError(ProducerError):
    """Kafka has not confirmed a call's records. `position`: index of the first sample not confirmed."""

    def __init__(self, stream_id: str, position: int, sample_rate: int, reason: str) -> None:
        super().__init__(
            f"call {stream_id}: not confirmed from position {position} ({position / sample_rate:.3f} s) on: {reason}"
        )
        self.stream_id = stream_id
        self.position = position


class Producer:
    """An idempotent, ordered Kafka producer for one audio topic; an async context manager.

    bootstrap_servers: "host:port,host:port". delivery_timeout: seconds within which a record must be
    confirmed, a broker's outage included. Further keyword arguments go to `AIOKafkaProducer` (TLS and SASL,
    for example). A topic that does not exist is an error: it is never created here.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str = Topics().audio,
        *,
        start_timeout: float = 30.0,
        delivery_timeout: float = 120.0,
        **kafka: Any,
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.topic = topic
        self.delivery_timeout = delivery_timeout
        self._start_timeout = start_timeout
        self._settings: dict[str, Any] = {
            "linger_ms": LINGER_MS,
            "max_batch_size": MAX_BATCH_BYTES,
            **kafka,
            "bootstrap_servers": bootstrap_servers,
            "acks": "all",
            "enable_idempotence": True,
        }
        self._kafka: AIOKafkaProducer | None = None
        self._partitions: list[int] = []

    async def start(self) -> None:
        """Connect and look the topic up. Raises ProducerError if that fails in `start_timeout` seconds."""
        try:
            self._kafka = AIOKafkaProducer(**self._settings)
            async with asyncio.timeout(self._start_timeout):
                await self._kafka.start()
                # All topics, because asking for one by name would create it on a broker that allows that.
                known = (await self._kafka.client.fetch_all_metadata()).topics()
                if self.topic not in known:
                    raise ProducerError(
                        f"topic {self.topic} does not exist on {self.bootstrap_servers}; "
                        "create it with `trunkline topics create`"
                    )
                self._partitions = sorted(await self._kafka.partitions_for(self.topic))
        except (TimeoutError, KafkaError, OSError, ValueError) as error:  # ValueError: an address that is none
            await self.stop()
            why = f"no answer in {self._start_timeout:g} s" if isinstance(error, TimeoutError) else str(error)
            raise ProducerError(f"cannot reach Kafka at {self.bootstrap_servers}: {why}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Disconnect. What calls have sent they have already waited for, so nothing is lost here."""
        kafka, self._kafka = self._kafka, None
        if kafka is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await kafka.stop()
        except TimeoutError:
            log.warning("Kafka at %s did not answer; stopped without it", self.bootstrap_servers)
            # A cancelled stop() leaves the client's own task behind, trying for ever.
            await kafka._sender.close()
            await kafka.client.close()

    def partition(self, key: bytes) -> int:
        """The partition of a key, as Kafka's own clients choose it (murmur2)."""
        partition: int = DefaultPartitioner()(key, self._partitions, self._partitions)
        return partition

    async def send(self, key: bytes, partition: int, value: bytes) -> Awaitable[Any]:
        """Queue one record, waiting while the buffer is full; the result is done when it is confirmed.

        Raises TimeoutError if there is no room in `delivery_timeout` seconds, KafkaError if the record or the
        producer is refused.
        """
        if self._kafka is None:
            raise ProducerError("the producer is not started")
        async with asyncio.timeout(self.delivery_timeout):
            while True:
                try:
                    confirmed: Awaitable[Any] = await self._kafka.send(self.topic, value, key=key, partition=partition)
                    return confirmed
                except KafkaTimeoutError:
                    # Raised only before the record is taken in, after the client's own shorter wait.
                    continue

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
