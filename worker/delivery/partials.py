"""Partials to Kafka: quick, best effort, outside every transaction."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from producer.stopping import stop_producer
from wire.codec import encode_key, encode_partial
from wire.events import Partial
from wire.topics import HEADER_INPUT_TIMESTAMP
from worker.telemetry.kafka import observe
from worker.telemetry.metrics import Metrics

Headers = Sequence[tuple[str, bytes]]

log = logging.getLogger(__name__)

RETRY_S = 1.0


@dataclass(slots=True)
class _Latest:
    partition: int
    partial: Partial
    timestamp: int
    headers: Headers


class Partials:
    """One idempotent producer for all partitions.

    A partial that the brokers are too slow for is replaced by the stream's next one, so that nothing piles up.
    """

    def __init__(self, topic: str, client: dict[str, Any], request_timeout_ms: int, metrics: Metrics) -> None:
        self._topic = topic
        self._client = client
        self._timeout_ms = request_timeout_ms
        self._metrics = metrics
        self._latest: OrderedDict[str, _Latest] = OrderedDict()
        self._ready = asyncio.Event()
        self._producer: AIOKafkaProducer | None = None

    def tell(self, partition: int, stream: str, partial: Partial, timestamp: int, headers: Headers = ()) -> None:
        """headers: beside that of the input's timestamp."""
        self._latest.pop(stream, None)
        self._latest[stream] = _Latest(partition, partial, timestamp, headers)
        self._ready.set()

    def forget(self, stream: str) -> None:
        """What the stream's waiting partial said is in a final now."""
        self._latest.pop(stream, None)

    async def run(self) -> None:
        """Send until cancelled. A producer that fails is replaced by a new one."""
        try:
            while True:
                try:
                    await self._send_all()
                except (KafkaError, TimeoutError, AssertionError) as error:
                    log.warning("partials cannot be sent: %r", error)
                    await self._stop()
                    await asyncio.sleep(RETRY_S)
        finally:
            await self._stop()

    async def _send_all(self) -> None:
        producer = AIOKafkaProducer(
            **self._client, enable_idempotence=True, acks="all", linger_ms=0, request_timeout_ms=self._timeout_ms
        )
        self._producer = producer
        observe(producer.client, self._metrics)
        async with asyncio.timeout(self._timeout_ms / 1000):
            await producer.start()
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._latest:
                stream, latest = self._latest.popitem(last=False)
                sent = await producer.send(
                    self._topic,
                    encode_partial(latest.partial),
                    key=encode_key(stream),
                    partition=latest.partition,
                    headers=[(HEADER_INPUT_TIMESTAMP, b"%d" % latest.timestamp), *latest.headers],
                )
                sent.add_done_callback(lambda done, at=latest.timestamp: self._sent(done, at))

    def _sent(self, done: "asyncio.Future[Any]", timestamp: int) -> None:
        if done.cancelled() or done.exception() is not None:
            self._metrics.partials_lost.inc()
        else:
            self._metrics.partial_delay.observe(max(0.0, time.time() - timestamp / 1000))

    async def _stop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await stop_producer(producer, self._timeout_ms / 1000)
