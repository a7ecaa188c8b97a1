"""What one partition's commits are written through: a transaction, or plain sends for clusters without.

The numbered steps of `write` are those of docs/delivery.md; a failpoint stands after each.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, ProducerFenced
from aiokafka.structs import OffsetAndMetadata

from producer.stopping import stop_producer
from worker.failpoint import failpoint
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]


class Aborted(Exception):
    """Nothing of the batch is visible, and nothing will be; it may be written again."""


class Lost(Exception):
    """This ledger is of no more use, and the batch may be visible or not: only the topics know."""


class Fenced(Lost):
    """Another worker has started a ledger of the partition, or the brokers gave the transaction up."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A record to publish. Kafka timestamps of the input, ms, None where nobody waits: `timestamp` of what decided it,
    `spoken` of what held the end of an utterance's last word."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = field(default_factory=list)
    timestamp: int | None = None
    spoken: int | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """A partition at one moment: events and rejects since the last, rows that changed, the offset to resume at.

    `superseded`: checkpoints that no commit needs once this one is done.
    """

    letters: Sequence[Letter]
    rows: Sequence[Letter]
    offset: int
    superseded: Sequence[str] = ()


class Ledger(ABC):
    """One partition's way out. Never used by two tasks at once."""

    def __init__(self, settings: KafkaSettings, client: dict[str, Any], partition: int) -> None:
        self._settings = settings
        self._partition = partition
        self._place = TopicPartition(settings.audio_topic, partition)
        self._deadline = settings.transaction_timeout_ms / 1000
        self._producer = AIOKafkaProducer(**client, **self._options(), acks="all", linger_ms=0)

    @property
    def client(self) -> AIOKafkaClient:
        """What the ledger's requests are sent by."""
        return self._producer.client

    @abstractmethod
    def _options(self) -> dict[str, Any]: ...

    @abstractmethod
    async def write(self, batch: Batch) -> None:
        """Publish and commit. Raises Aborted or Lost."""

    async def start(self) -> None:
        """Raises TimeoutError or KafkaError; the ledger is of no use then."""
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._producer.start()
        except AssertionError as error:  # the client's own: a cluster that is coming back may name no broker yet
            await self.stop()
            raise KafkaConnectionError(f"the cluster names no broker: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close the connections; after a while without an answer, give up what is under way."""
        await stop_producer(self._producer, self._settings.request_timeout_ms / 1000)

    async def _send(self, letters: Sequence[Letter]) -> None:
        """Return once every record is acknowledged. Raises what made the first one fail, or TimeoutError."""
        waiting: list[asyncio.Future[Any]] = []
        async with asyncio.timeout(self._deadline):
            for letter in letters:
                sent = await self._producer.send(
                    letter.topic, letter.value, key=letter.key, partition=self._partition, headers=letter.headers
                )
                sent.add_done_callback(_heard)
                waiting.append(sent)
            if waiting:
                await asyncio.wait(waiting)
        for sent in waiting:
            sent.result()


class TransactionalLedger(Ledger):
    """Exactly once. `start` fences every earlier ledger of the partition and ends its open transaction."""

    def _options(self) -> dict[str, Any]:
        settings = self._settings
        return {
            "transactional_id": f"{settings.group}/{settings.audio_topic}/{self._partition}",
            "transaction_timeout_ms": settings.transaction_timeout_ms,
            "request_timeout_ms": settings.request_timeout_ms,
        }

    async def write(self, batch: Batch) -> None:
        """Steps 2 to 6 of a commit; collecting the batch is step 1."""
        try:
            await self._producer.begin_transaction()  # 2: local, the broker learns of it by the first send
            failpoint("commit.2-begun")
            await self._send(batch.letters)  # 3: finals and rejects
            failpoint("commit.3-sent")
            await self._send(batch.rows)  # 4: the stream table
            failpoint("commit.4-rows")
            async with asyncio.timeout(self._deadline):  # 5
                await self._producer.send_offsets_to_transaction(
                    {self._place: OffsetAndMetadata(batch.offset, "")}, self._settings.group
                )
            failpoint("commit.5-offsets")
        except Exception as error:
            await self._abort(error)
            raise Aborted(f"a transaction of partition {self._partition} was aborted: {error!r}") from error
        try:
            async with asyncio.timeout(self._deadline):  # 6
                await self._producer.commit_transaction()
        except Exception as error:
            raise _lost(error)(
                f"partition {self._partition}: whether a transaction took place is unknown: {error!r}"
            ) from error
        failpoint("commit.6-committed")

    async def _abort(self, cause: Exception) -> None:
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._producer.abort_transaction()
        except Exception as error:
            raise _lost(cause, error)(
                f"partition {self._partition}: a transaction failed ({cause!r}) and cannot be aborted: {error!r}"
            ) from cause


def _heard(sent: "asyncio.Future[Any]") -> None:
    """Of the errors of a batch one is raised; asyncio would log each of the others as never retrieved."""
    if not sent.cancelled():
        sent.exception()


def _lost(*errors: Exception) -> type[Lost]:
    return Fenced if any(isinstance(error, ProducerFenced) for error in errors) else Lost


class PlainLedger(Ledger):
    """At least once: events, then rows, then the offset by the group's own commit. Fences nobody."""

    def __init__(
        self, settings: KafkaSettings, client: dict[str, Any], partition: int, consumer: AIOKafkaConsumer
    ) -> None:
        super().__init__(settings, client, partition)
        self._consumer = consumer

    def _options(self) -> dict[str, Any]:
        return {"enable_idempotence": True, "request_timeout_ms": self._settings.request_timeout_ms}

    async def write(self, batch: Batch) -> None:
        try:
            await self._send(batch.letters)
            failpoint("commit.3-sent")
            await self._send(batch.rows)
            failpoint("commit.4-rows")
            async with asyncio.timeout(self._deadline):
                await self._consumer.commit({self._place: OffsetAndMetadata(batch.offset, "")})
        except Exception as error:
            raise Lost(f"partition {self._partition}: a commit failed half-way: {error!r}") from error
        failpoint("commit.6-committed")
