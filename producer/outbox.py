"""The records that Kafka has not confirmed yet: a bounded queue with a deadline for each.

The client has neither: with idempotence it tries for ever. Records wait here, a lane for each partition, and stay
until their batch is confirmed. A lane has one batch at the client; what fails there for a reason that may pass
(a leader gone, a broker's restart) goes again through a new connection, so a record may reach the log twice,
never out of order. The worker drops what it has heard already.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from producer.connection import MAX_BATCH_BYTES, Connection
from producer.entry import Entry, Headers, Sink, Span

log = logging.getLogger(__name__)

# Little against a record of 100 ms, enough for all partitions' batches to share one request to a broker. When much
# waits there is no need: more comes together while a request is under way.
LINGER_S = 0.01
# Between attempts with a new connection.
RETRY_S = 0.25
# Between words about a full queue, which at full speed is full much of the time.
SAY_S = 60.0
# What a record needs beside its bytes, roughly: small records must not make the queue larger than its bound.
OVERHEAD_BYTES = 500

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)
REFUSED = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError, InvalidTopicError)


class Lane:
    """The records of one partition, in order: those at the client, then those that wait."""

    __slots__ = ("connection", "flying", "heard", "most", "number", "waiting", "why")

    def __init__(self, number: int) -> None:
        self.number = number
        self.flying: list[Entry] = []
        self.waiting: deque[Entry] = deque()
        self.connection: Connection | None = None  # that of the flying ones
        self.most: int | None = None  # records a batch, once the broker found one too large
        self.why = ""  # the last failure
        self.heard = 0.0  # when Kafka last confirmed something, on the loop's clock

    @property
    def oldest(self) -> Entry | None:
        return next((e for e in self.flying if e.sink), None) or (self.waiting[0] if self.waiting else None)


class Outbox:
    """Takes records up to `limit` bytes and hands them to a connection; see the module.

    timeout_s: from a record's entry to its confirmation. connect: makes another started connection; it may raise.
    """

    def __init__(
        self,
        connection: Connection,
        partitions: Sequence[int],
        connect: Callable[[], Awaitable[Connection]],
        timeout_s: float,
        limit: int,
    ) -> None:
        self.bytes = 0
        self._connection = connection
        self._connect = connect
        self._timeout = timeout_s
        self._limit = limit
        self._lanes = {number: Lane(number) for number in partitions}
        self._ready: set[Lane] = set()
        self._work = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._said = -math.inf  # when it was last said that the queue is full
        self._queue: deque[asyncio.Future[None]] = deque()  # those who wait for room, in turn
        self._stopping: set[asyncio.Task[None]] = set()  # connections that are spent
        self._pump = self._loop.create_task(self._run())
        self._pump.add_done_callback(_say)

    @property
    def oldest_s(self) -> float:
        """How long the oldest record has waited; 0 if none does."""
        heads = [entry.deadline for lane in self._lanes.values() if (entry := lane.oldest)]
        return self._loop.time() - min(heads) + self._timeout if heads else 0.0

    @property
    def silent_s(self) -> float:
        """How long some partition's records have waited without a confirmation; 0 if none wait."""
        now = self._loop.time()
        waits = [
            now - max(lane.heard, entry.deadline - self._timeout)
            for lane in self._lanes.values()
            if (entry := lane.oldest)
        ]
        return max(waits, default=0.0)

    def has_room(self) -> bool:
        return self.bytes < self._limit and not self._queue

    async def room(self) -> None:
        """Return when there is room and all who came before have had theirs. Raises TimeoutError at the deadline."""
        if self.has_room():
            return
        if not self._queue and self._loop.time() - self._said >= SAY_S:
            self._said = self._loop.time()
            log.warning("%.1f MiB are not confirmed by Kafka: the queue is full, and sending waits", self.bytes / 2**20)
        turn = self._loop.create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(self._timeout):
                await turn
        finally:
            self._admit()

    def put(
        self,
        partition: int,
        sink: Sink,
        key: bytes,
        value: bytes,
        position: int,
        end: int,
        span: Span | None = None,
        headers: Headers = (),
    ) -> None:
        """Take a record in, whether or not there is room."""
        lane = self._lanes[partition]
        entry = Entry(sink, key, value, position, end, self._loop.time() + self._timeout, span, headers)
        lane.waiting.append(entry)
        self.bytes += len(value) + OVERHEAD_BYTES
        if not lane.flying:
            self._ready.add(lane)
            self._work.set()
        if self._alarm is None:
            self._alarm = self._loop.call_at(entry.deadline, self._expire)

    async def stop(self) -> None:
        """Disconnect. What is still here is lost, and its senders are told."""
        self._pump.cancel()
        await asyncio.wait([self._pump])
        if self._alarm is not None:
            self._alarm.cancel()
        for lane in self._lanes.values():
            for entry in (*lane.flying, *lane.waiting):
                entry.lose("the producer was stopped")
        for connection in {self._connection} | {lane.connection for lane in self._lanes.values() if lane.flying}:
            if connection is not None:
                self._retire(connection)
        await asyncio.wait(self._stopping)

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            await asyncio.sleep(LINGER_S if self.bytes < MAX_BATCH_BYTES else 0)
            self._work.clear()
            if self._connection.spent:
                await self._reconnect()
            ready, self._ready = self._ready, set()
            for lane in ready:
                if lane.waiting:
                    await self._launch(lane)

    async def _launch(self, lane: Lane) -> None:
        """Give the lane's next batch to the client."""
        batch = self._connection.batch()
        while lane.waiting and len(lane.flying) != lane.most:
            entry = lane.waiting[0]
            if batch.append(timestamp=None, key=entry.key, value=entry.value, headers=list(entry.headers)) is None:
                break
            lane.flying.append(lane.waiting.popleft())
        lane.connection = self._connection
        lane.connection.in_flight += 1
        try:
            confirmed = await lane.connection.send(batch, lane.number)
        except (KafkaError, AssertionError) as error:  # AssertionError: the topic lost this partition
            self._landed(lane, error)
        else:
            confirmed.add_done_callback(lambda done: self._landed(lane, _error(done)))

    def _landed(self, lane: Lane, error: BaseException | None) -> None:
        """A lane's batch was confirmed or has failed."""
        connection, flying, lane.flying = lane.connection, lane.flying, []
        assert connection is not None
        connection.in_flight -= 1
        again: list[Entry] = []
        if error is None:
            lane.heard = self._loop.time()
            for entry in flying:
                entry.confirm()
        else:
            connection.spent = True
            lane.why = f"{type(error).__name__}: {error}"
            if isinstance(error, TOO_LARGE) and len(flying) > 1:
                lane.most = len(flying) // 2
            if isinstance(error, REFUSED) or (isinstance(error, TOO_LARGE) and len(flying) == 1):
                for entry in flying:
                    entry.lose(lane.why)
            again = [entry for entry in flying if entry.sink is not None]
            lane.waiting.extendleft(reversed(again))
        self._free(flying, again)
        if connection.spent and connection.in_flight == 0 and connection is not self._connection:
            self._retire(connection)
        if lane.waiting:
            self._ready.add(lane)
            self._work.set()

    async def _reconnect(self) -> None:
        """Go on with a new connection; the old one ends when nothing is in flight on it."""
        while True:
            await asyncio.sleep(RETRY_S)
            try:
                fresh = await self._connect()
                break
            except (KafkaError, OSError, TimeoutError) as error:
                log.debug("no new connection yet: %s", error)
        old, self._connection = self._connection, fresh
        if old.in_flight == 0:
            self._retire(old)

    def _retire(self, connection: Connection) -> None:
        task = self._loop.create_task(connection.stop())
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)

    def _expire(self) -> None:
        """Give up what is overdue. What is at the client may still arrive; its sender is told all the same."""
        self._alarm = None
        now = self._loop.time()
        heads: list[float] = []
        for lane in self._lanes.values():
            reason = f"no answer in {self._timeout:g} s" + (f" ({lane.why})" if lane.why else "")
            for entry in lane.flying:
                if entry.deadline <= now:
                    entry.lose(reason)
            gone: list[Entry] = []
            while lane.waiting and lane.waiting[0].deadline <= now:
                gone.append(lane.waiting.popleft())
                gone[-1].lose(reason)
            self._free(gone)
            if oldest := lane.oldest:
                heads.append(oldest.deadline)
        if heads:
            self._alarm = self._loop.call_at(min(heads), self._expire)

    def _free(self, entries: Sequence[Entry], kept: Sequence[Entry] = ()) -> None:
        self.bytes -= sum(len(entry.value) + OVERHEAD_BYTES for entry in entries)
        self.bytes += sum(len(entry.value) + OVERHEAD_BYTES for entry in kept)
        self._admit()

    def _admit(self) -> None:
        """Let the next one in who waits for room; it puts its record in and lets the one behind it in."""
        while self._queue and self.bytes < self._limit:
            turn = self._queue.popleft()
            if not turn.done():  # its time was up
                turn.set_result(None)
                return


def _error(done: asyncio.Future[Any]) -> BaseException | None:
    return asyncio.CancelledError() if done.cancelled() else done.exception()


def _say(pump: asyncio.Task[None]) -> None:
    if not pump.cancelled() and (error := pump.exception()):
        log.error("sending has ended", exc_info=error)
