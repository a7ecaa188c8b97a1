"""The connection to Kafka that all calls of a process share."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from producer.connection import Connection, unreachable
from producer.entry import Sink
from producer.outbox import Outbox
from producer.reach import Unreachable, reach
from producer.security import Security
from producer.tracing import Tracer
from wire.topics import Topics

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class ProducerError(RuntimeError):
    """The producer cannot work: no broker in time, or no topic."""


class DeliveryError(ProducerError):
    """Kafka has not confirmed all of a stream's records in time.

    position: index of the first sample not confirmed. sent: samples sent in all; equal to `position` when only a
    record without audio (the end, a flush) is not confirmed. sample_rate in Hz. Not confirmed is not lost: it may
    have reached Kafka, or reach it yet.
    """

    def __init__(self, stream_id: str, position: int, sent: int, sample_rate: int, reason: str) -> None:
        first, last = (f"{samples} ({samples / sample_rate:.3f} s)" for samples in (position, sent))
        which = (
            f"from position {first} to {last}" if sent > position else f"after position {first}, the end of its audio"
        )
        super().__init__(f"call {stream_id}: not confirmed {which}: {reason}")
        self.stream_id = stream_id
        self.position = position
        self.sent = sent
        self.sample_rate = sample_rate


class Producer:
    """An idempotent, ordered Kafka producer for one audio topic; an async context manager.

    bootstrap_servers: "host:port,host:port". delivery_timeout: seconds within which a record must be confirmed: a
    broker's outage that is shorter loses nothing. queue_bytes: records not confirmed that are held in memory, of all
    calls together; beyond that, sending waits. security: TLS and SASL. tracer_provider: OpenTelemetry's; each
    record becomes a span, and carries it on in its header. Further keyword arguments go to
    `AIOKafkaProducer`. A topic that does not exist is an error: it is never created here. Raises SecurityError for
    security settings that cannot work.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str = Topics().audio,
        *,
        start_timeout: float = 30.0,
        delivery_timeout: float = 120.0,
        queue_bytes: int = 64 * 2**20,
        security: Security | None = None,
        tracer_provider: TracerProvider | None = None,
        **kafka: Any,
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.topic = topic
        self.delivery_timeout = delivery_timeout
        self.queue_bytes = queue_bytes
        self._start_timeout = start_timeout
        self._settings = {
            **kafka,
            **(security.client() if security else {}),
            "bootstrap_servers": bootstrap_servers,
        }
        self._tracer = None if tracer_provider is None else Tracer(tracer_provider)
        self._outbox: Outbox | None = None
        self._partitions: list[int] = []

    async def start(self) -> None:
        """Connect and look the topic up. Raises ProducerError if that fails in `start_timeout` seconds."""
        connection: Connection | None = None
        try:
            await reach(self._settings, self._start_timeout)
            connection = Connection(self.topic, self._settings)
            await connection.start(self._start_timeout)
            partitions = await connection.partitions()
            if not partitions:
                raise ProducerError(
                    f"topic {self.topic} does not exist on {self.bootstrap_servers}; "
                    "create it with `trunkline topics create`"
                )
        except BaseException as error:
            if connection is not None:
                await connection.stop()
            if not isinstance(error, Unreachable | TimeoutError | KafkaError | OSError | ValueError):
                raise
            raise ProducerError(unreachable(self.bootstrap_servers, error, self._start_timeout)) from error
        self._partitions = partitions
        self._outbox = Outbox(connection, partitions, self._connect, self.delivery_timeout, self.queue_bytes)

    async def stop(self) -> None:
        """Disconnect. What calls have sent they have already waited for, so nothing is lost here."""
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            await outbox.stop()

    @property
    def waiting_bytes(self) -> int:
        """What Kafka has not confirmed yet, roughly, with what each record costs in memory."""
        return self._outbox.bytes if self._outbox else 0

    @property
    def waiting_s(self) -> float:
        """How long the oldest record that is not confirmed has waited; 0 when all are."""
        return self._outbox.oldest_s if self._outbox else 0.0

    @property
    def silent_s(self) -> float:
        """How long records of some partition have waited while Kafka confirmed none of that partition's."""
        return self._outbox.silent_s if self._outbox else 0.0

    def partition(self, key: bytes) -> int:
        """The partition of a key, as Kafka's own clients choose it (murmur2)."""
        partition: int = DefaultPartitioner()(key, self._partitions, self._partitions)
        return partition

    def has_room(self) -> bool:
        """Whether `room` would return at once."""
        return self._started().has_room()

    async def room(self) -> None:
        """Wait until the queue takes audio again. Raises TimeoutError after `delivery_timeout` seconds."""
        await self._started().room()

    def put(self, partition: int, sink: Sink, key: bytes, value: bytes, position: int, end: int) -> None:
        """Queue one record with samples `position` to `end` of its stream; `sink` learns what became of it."""
        outbox = self._started()
        if self._tracer is None:
            outbox.put(partition, sink, key, value, position, end)
            return
        attributes = {
            "messaging.system": "kafka",
            "messaging.destination.name": self.topic,
            "messaging.destination.partition.id": str(partition),
            "trunkline.stream": key.decode(errors="replace"),
            "trunkline.position": position,
        }
        span = self._tracer.begin(f"send {self.topic}", attributes)
        outbox.put(partition, sink, key, value, position, end, span, self._tracer.headers(span))

    def _started(self) -> Outbox:
        if self._outbox is None:
            raise ProducerError("the producer is not started")
        return self._outbox

    async def _connect(self) -> Connection:
        connection = Connection(self.topic, self._settings)
        try:
            await connection.start(self._start_timeout)
        except BaseException:
            await connection.stop()
            raise
        return connection

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
