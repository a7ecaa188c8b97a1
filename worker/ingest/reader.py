"""Kafka in: owned partitions, where each is read from, and when reading pauses."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    KafkaTimeoutError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from worker.ingest.assignment import Restored
from worker.ingest.ownership import Holding, Ownership
from worker.leaving import stop_consumer
from worker.partition import Partition
from worker.settings import KafkaSettings
from worker.telemetry.traces import Traces

log = logging.getLogger(__name__)

POLL_MS = 100  # how long a turn waits for records; new ones end it at once
STALE_MS = 2_000  # a broker that can be reached answers a fetch within FETCH_WAIT_MS
FETCH_WAIT_MS = 100
RETRY_S = 0.5
PASSING = (OffsetOutOfRangeError, KafkaTimeoutError)  # not retriable by the client's book
PAUSED_POLL_MS = 20  # while paused nothing ends it


class Reader:
    """Reads the audio topic and hands each record to its `Partition`. `restore` and `hold` make what it holds.

    `pressure` says whether waiting audio fills the memory it may take: then all partitions pause.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        client: dict[str, Any],
        restore: Callable[[AIOKafkaConsumer, TopicPartition], Awaitable[Restored]],
        hold: Callable[[int, Restored], Holding],
        pressure: Callable[[], bool],
        traces: Traces | None = None,
    ) -> None:
        self._settings = settings
        self._pressure = pressure
        self._traces = traces
        self._stopping = False
        self._paused = False
        self.consumer = AIOKafkaConsumer(
            **client,
            group_id=settings.group,
            enable_auto_commit=False,
            auto_offset_reset="none",  # `earliest` and `latest` would skip or repeat without a word
            isolation_level="read_committed",
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.session_timeout_ms // 5,
            request_timeout_ms=settings.request_timeout_ms,
            max_poll_records=settings.max_poll_records,
            # fixed from the first release on: a group whose members disagree cannot be upgraded in steps
            partition_assignment_strategy=(StickyPartitionAssignor,),
            fetch_max_wait_ms=FETCH_WAIT_MS,
            group_instance_id=settings.instance_id,
        )
        self.owned = Ownership(self.consumer, settings, restore, hold, lambda: self._paused)

    async def start(self) -> None:
        """Join the group. Raises TimeoutError if that takes too long.

        The client waits for the first assignment, and that for members that are gone but not missed yet.
        """
        self.consumer.subscribe([self._settings.audio_topic], listener=self.owned)
        settings = self._settings
        async with asyncio.timeout((settings.request_timeout_ms + 3 * settings.session_timeout_ms) / 1000):
            await self.consumer.start()

    async def run(self) -> None:
        """Read until `stop_reading`. Raises what made a partition's restore fail."""
        while not self._stopping:
            if self.owned.fault is not None:
                raise self.owned.fault
            self._throttle()
            try:
                await self._turn()
            except NoOffsetForPartitionError:  # asked for before its restore has set it
                self._rewind()
            except (KafkaError, TimeoutError) as error:
                if isinstance(error, KafkaError) and not (error.retriable or isinstance(error, PASSING)):
                    raise
                log.warning("the audio topic cannot be read at present: %r", error)
                self._rewind()
                await asyncio.sleep(RETRY_S)

    async def _turn(self) -> None:
        """Take what is there, waiting a moment for it."""
        try:
            batches = await self.consumer.getmany(timeout_ms=PAUSED_POLL_MS if self._paused else POLL_MS)
        except OffsetOutOfRangeError as error:
            self._rewind()
            await self._retention_passed(error)
        except (UnsupportedCodecError, CorruptRecordException):
            self._rewind()
            await self._step_over()
        else:
            self._hand_over(batches)

    def stop_reading(self) -> None:
        self._stopping = True

    async def leave(self) -> None:
        """Leave the group, so that others take over at once, and close what partitions are written through."""
        self.owned.stop_restoring()
        if not await stop_consumer(self.consumer, self._settings.request_timeout_ms / 1000):
            log.warning("leaving the group took too long; the others wait for the session time-out")
        await self.owned.close()

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def partitions(self) -> list[Partition]:
        return self.owned.partitions

    def reads(self, number: int) -> bool:
        """Whether the partition is being read: not paused, and its broker answered a moment ago."""
        place = TopicPartition(self._settings.audio_topic, number)
        if self._paused or number not in self.owned.holdings or place not in self.consumer.assignment():
            return False
        answered = self.consumer.last_poll_timestamp(place)
        return answered is not None and time.time() * 1000 - answered < STALE_MS

    async def caught_up(self, number: int) -> bool:
        """Whether the partition was read to its end and may be judged by the clock."""
        if not self.reads(number):
            return False
        place = TopicPartition(self._settings.audio_topic, number)
        end = self.consumer.highwater(place)
        return end is not None and await self.consumer.position(place) >= end

    async def unread(self, number: int) -> int:
        """Records between the read position and the partition's end, as far as its broker has told."""
        place = TopicPartition(self._settings.audio_topic, number)
        if number not in self.owned.holdings or place not in self.consumer.assignment():
            return 0
        end = self.consumer.highwater(place)
        return 0 if end is None else max(0, end - await self.consumer.position(place))

    def _rewind(self) -> None:
        """A `getmany` that raises may have passed over other partitions' records: read those again."""
        for partition in self.partitions:
            place = TopicPartition(self._settings.audio_topic, partition.number)
            if place in self.consumer.assignment():
                self.consumer.seek(place, partition.next_offset)

    async def _step_over(self) -> None:
        """Somewhere a batch cannot be unpacked: find it, reject its records, go on behind it.

        The client names neither the partition nor the batch's end. So each partition is read by itself, and the one
        that raises is moved on offset by offset: within the batch the broker sends the whole of it again.
        """
        for number, holding in list(self.owned.holdings.items()):
            partition = holding.partition
            place = TopicPartition(self._settings.audio_topic, number)
            while self.owned.holdings.get(number) is holding and place in self.consumer.assignment():
                try:
                    found = await self.consumer.getmany(place, timeout_ms=POLL_MS, max_records=1)
                except (UnsupportedCodecError, CorruptRecordException) as error:
                    partition.unreadable(partition.next_offset, str(error))
                    self.consumer.seek(place, partition.next_offset)
                    continue
                self._hand_over(found)
                break

    def _hand_over(self, batches: dict[TopicPartition, Any]) -> None:
        for place, records in batches.items():
            holding = self.owned.holdings.get(place.partition)
            if holding is None:  # taken away, or not restored yet: it will be read again
                continue
            partition = holding.partition
            for record in records:
                if record.offset >= partition.next_offset:
                    if self._traces is not None and record.headers:
                        self._traces.received(place.partition, record.offset, record.headers)
                    partition.accept(record.key, record.value, record.offset, record.timestamp)

    async def _retention_passed(self, error: OffsetOutOfRangeError) -> None:
        """The log's start overtook the read position: go on from there; positions show the streams their gap.

        During a replay streams may begin in the hole: then the partition is begun again, which gives each its gap.
        """
        for place in error.args[0]:
            first = (await self.consumer.beginning_offsets([place]))[place]
            log.error(
                "partition %d: records before offset %d are gone unread; raise the retention of %s",
                place.partition,
                first,
                place.topic,
            )
            holding = self.owned.holdings.get(place.partition)
            if holding is not None and holding.partition.replaying:
                self.owned.begin_again(place.partition)
            else:
                self.consumer.seek(place, first)

    def _throttle(self) -> None:
        pressure = self._pressure()
        if pressure == self._paused:
            return
        places = [TopicPartition(self._settings.audio_topic, number) for number in self.owned.holdings]
        places = [place for place in places if place in self.consumer.assignment()]
        self._paused = pressure
        if pressure:
            self.consumer.pause(*places)
        else:
            self.consumer.resume(*places)
        log.debug("reading %s", "paused" if pressure else "resumed")
