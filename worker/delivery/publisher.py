"""Events and rejected records to Kafka, each to the partition its input came from."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError

from wire.codec import encode_final, encode_key, encode_partial, encode_rejected
from wire.events import Partial, Rejected
from wire.topics import (
    HEADER_INPUT_TIMESTAMP,
    HEADER_OFFSET,
    HEADER_PARTITION,
    HEADER_TOPIC,
    Topics,
)
from worker.telemetry.metrics import Metrics
from worker.transcript.transcriber import Told

log = logging.getLogger(__name__)

Headers = list[tuple[str, bytes]]


@dataclass(slots=True)
class _Letter:
    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: Headers
    acknowledged: "asyncio.Future[None]"
    timestamp: int | None


class Publisher:
    """Two idempotent producers: finals and rejects, which must arrive, and partials, which must be quick.

    A partial that the broker is too slow for is replaced by the stream's next one. `failed` is set when a final
    cannot be delivered: the service must stop, since the offset may not pass it.
    """

    def __init__(self, topics: Topics, client: dict[str, Any], request_timeout_ms: int, metrics: Metrics) -> None:
        self._topics = topics
        self._metrics = metrics
        options = dict(**client, enable_idempotence=True, acks="all", request_timeout_ms=request_timeout_ms)
        # a final waits a little for company; a partial never
        self._finals = AIOKafkaProducer(**options, linger_ms=5)
        self._quick = AIOKafkaProducer(**options, linger_ms=0)
        self._timeout_s = request_timeout_ms / 1000
        self._letters: asyncio.Queue[_Letter] = asyncio.Queue()
        self._partials: OrderedDict[str, _Letter] = OrderedDict()
        self._partial_ready = asyncio.Event()
        self._unacknowledged: defaultdict[int, set[asyncio.Future[None]]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Raises TimeoutError if the brokers do not answer."""
        for producer in (self._finals, self._quick):
            async with asyncio.timeout(self._timeout_s):
                await producer.start()
        self._tasks = [
            asyncio.create_task(self._send_finals(), name="finals"),
            asyncio.create_task(self._send_partials(), name="partials"),
        ]
        for task in self._tasks:
            task.add_done_callback(self._watch)

    async def stop(self) -> None:
        """Close both producers; what is not acknowledged by then is lost to them (not to the offsets)."""
        for task in self._tasks:
            task.cancel()
        for producer in (self._quick, self._finals):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await producer.stop()

    def told(self, partition: int, stream: str, item: Told) -> None:
        """Queue an event of a stream."""
        key = encode_key(stream)
        headers: Headers = [(HEADER_INPUT_TIMESTAMP, b"%d" % item.timestamp)]
        if isinstance(item.event, Partial):
            value = encode_partial(item.event)
            self._partials.pop(stream, None)
            self._partials[stream] = self._letter(self._topics.partial, partition, key, value, headers, item.timestamp)
            self._partial_ready.set()
        else:
            self._partials.pop(stream, None)  # what it said is in the final now
            value = encode_final(item.event)
            self._queue(self._letter(self._topics.final, partition, key, value, headers, item.timestamp))

    def rejected(self, partition: int, key: bytes | None, offset: int, rejected: Rejected) -> None:
        headers: Headers = [
            (HEADER_TOPIC, self._topics.audio.encode()),
            (HEADER_PARTITION, b"%d" % partition),
            (HEADER_OFFSET, b"%d" % offset),
        ]
        value = encode_rejected(rejected)
        self._queue(self._letter(self._topics.rejected, partition, key, value, headers, None))

    async def acknowledged(self, partition: int) -> None:
        """Return when all that was queued for this partition until now is on the brokers."""
        waiting = list(self._unacknowledged[partition])
        if waiting:
            await asyncio.gather(*waiting)

    @property
    def backlog(self) -> int:
        """Finals and rejects not acknowledged."""
        return sum(len(waiting) for waiting in self._unacknowledged.values())

    def _letter(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes,
        headers: Headers,
        timestamp: int | None,
    ) -> _Letter:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return _Letter(topic, partition, key, value, headers, future, timestamp)

    def _queue(self, letter: _Letter) -> None:
        waiting = self._unacknowledged[letter.partition]
        waiting.add(letter.acknowledged)
        letter.acknowledged.add_done_callback(waiting.discard)
        self._letters.put_nowait(letter)

    async def _send_finals(self) -> None:
        while True:
            letter = await self._letters.get()
            sent = await self._send(self._finals, letter)
            sent.add_done_callback(partial(self._acknowledge, letter))

    async def _send_partials(self) -> None:
        while True:
            await self._partial_ready.wait()
            self._partial_ready.clear()
            while self._partials:
                _, letter = self._partials.popitem(last=False)
                sent = await self._send(self._quick, letter)
                sent.add_done_callback(partial(self._partial_out, letter))

    async def _send(self, producer: AIOKafkaProducer, letter: _Letter) -> "asyncio.Future[Any]":
        while True:
            try:
                sent: asyncio.Future[Any] = await producer.send(
                    letter.topic,
                    letter.value,
                    key=letter.key,
                    partition=letter.partition,
                    headers=letter.headers,
                )
                return sent
            except KafkaTimeoutError:  # no room in the client's buffer: the record was not taken
                log.warning("no broker takes records for %s; trying again", letter.topic)

    def _acknowledge(self, letter: _Letter, done: "asyncio.Future[Any]") -> None:
        error = done.exception() if not done.cancelled() else asyncio.CancelledError()
        if error is None:
            if letter.timestamp is not None:
                self._metrics.final_delay.observe(max(0.0, time.time() - letter.timestamp / 1000))
            if not letter.acknowledged.done():
                letter.acknowledged.set_result(None)
        elif not self.failed.done():
            self.failed.set_exception(RuntimeError(f"a record for {letter.topic} was not delivered: {error!r}"))

    def _partial_out(self, letter: _Letter, done: "asyncio.Future[Any]") -> None:
        if done.cancelled() or done.exception() is not None:
            self._metrics.partials_lost.inc()
        elif letter.timestamp is not None:
            self._metrics.partial_delay.observe(max(0.0, time.time() - letter.timestamp / 1000))

    def _watch(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None and not self.failed.done():
            self.failed.set_exception(RuntimeError(f"publishing stopped: {task.exception()!r}"))
