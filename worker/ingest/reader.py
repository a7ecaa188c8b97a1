"""Kafka in: owned partitions, where each is read from, and when reading pauses."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import (
    CorruptRecordException,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from worker.delivery.offsets import Committer, read_committed
from worker.partition import Partition
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

POLL_MS = 100  # how long a turn waits for records; new ones end it at once
PAUSED_POLL_MS = 20  # while paused nothing ends it


class Reader(ConsumerRebalanceListener):  # type: ignore[misc]
    """Reads the audio topic and hands each record to its `Partition`.

    `pressure` says whether waiting audio fills the memory it may take: then all partitions pause.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        client: dict[str, Any],
        make_partition: Callable[[int, int, int], Partition],
        pressure: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._client = client
        self._make = make_partition
        self._pressure = pressure
        self._restoring: dict[int, asyncio.Task[None]] = {}
        self._stopping = False
        self._paused = False
        self._fault: BaseException | None = None
        self.partitions: dict[int, Partition] = {}
        self.rebalances = 0
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
            fetch_max_wait_ms=100,
        )
        self.committer: Committer | None = None

    async def start(self) -> None:
        """Join the group. Raises TimeoutError if the brokers do not answer."""
        self.consumer.subscribe([self._settings.audio_topic], listener=self)
        async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
            await self.consumer.start()

    async def run(self) -> None:
        """Read until `stop_reading`. Raises what made a partition's restore fail."""
        while not self._stopping:
            if self._fault is not None:
                raise self._fault
            self._throttle()
            try:
                batches = await self.consumer.getmany(timeout_ms=PAUSED_POLL_MS if self._paused else POLL_MS)
            except NoOffsetForPartitionError:  # asked for before its restore has set it
                self._rewind()
                continue
            except OffsetOutOfRangeError as error:
                self._rewind()
                await self._retention_passed(error)
                continue
            except (UnsupportedCodecError, CorruptRecordException):
                self._rewind()
                await self._step_over()
                continue
            self._hand_over(batches)

    def stop_reading(self) -> None:
        self._stopping = True

    async def leave(self) -> None:
        """Leave the group, so that others take over at once."""
        for task in self._restoring.values():
            task.cancel()
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self.consumer.stop()
        except TimeoutError:
            log.warning("leaving the group took too long; the others wait for the session time-out")

    @property
    def paused(self) -> bool:
        return self._paused

    async def caught_up(self, number: int) -> bool:
        """Whether the partition was read to its end and may be judged by the clock."""
        place = TopicPartition(self._settings.audio_topic, number)
        if self._paused or number not in self.partitions or place not in self.consumer.assignment():
            return False
        end = self.consumer.highwater(place)
        return end is not None and await self.consumer.position(place) >= end

    def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        # first of all: records flow before this returns, and from a position that is not ours
        self.consumer.pause(*assigned)
        self.rebalances += 1
        log.info("partitions assigned: %s", sorted(place.partition for place in assigned))
        for place in assigned:
            task = asyncio.create_task(self._restore(place))
            task.add_done_callback(self._restored)
            self._restoring[place.partition] = task

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        for task in self._restoring.values():
            task.cancel()
        self._restoring.clear()
        if not self.partitions:
            return
        log.info("partitions revoked: %s", sorted(self.partitions))
        if self.committer is not None:
            try:
                async with asyncio.timeout(self._settings.session_timeout_ms / 3000):
                    await self.committer.commit(list(self.partitions.values()))
            except TimeoutError:
                log.warning("no commit before the partitions were given up; their events will be repeated")
            self.committer.forget(list(self.partitions))
        for partition in self.partitions.values():
            partition.drop()
        self.partitions.clear()

    def _restored(self, task: "asyncio.Task[None]") -> None:
        """A restore that fails unforeseen must not leave its partition unread without a word."""
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()

    async def _restore(self, place: TopicPartition) -> None:
        """Begin to read a partition where its last commit says."""
        while True:
            try:
                committed = await read_committed(self._client, self._settings.group, place.topic, place.partition)
                first = (await self.consumer.beginning_offsets([place]))[place]
                break
            except KafkaError as error:
                log.warning("partition %d cannot be restored yet: %r", place.partition, error)
                await asyncio.sleep(1.0)
        if place not in self.consumer.assignment():  # taken away meanwhile
            return
        resume, read = (first, first) if committed is None else (committed.resume, committed.read)
        if resume < first:
            log.error(
                "partition %d: offsets %d to %d are needed but are no longer kept; raise the retention of %s",
                place.partition,
                resume,
                first - 1,
                place.topic,
            )
            resume = first
        self.consumer.seek(place, resume)
        self.partitions[place.partition] = self._make(place.partition, resume, read)
        if not self._paused:
            self.consumer.resume(place)
        log.info("partition %d: reading from offset %d", place.partition, resume)

    def _rewind(self) -> None:
        """A `getmany` that raises may have passed over other partitions' records: read those again."""
        for number, partition in self.partitions.items():
            place = TopicPartition(self._settings.audio_topic, number)
            if place in self.consumer.assignment():
                self.consumer.seek(place, partition.next_offset)

    async def _step_over(self) -> None:
        """Somewhere a batch cannot be unpacked: find it, reject its records, go on behind it.

        The client names neither the partition nor the batch's end. So each partition is read by itself, and the one
        that raises is moved on offset by offset: within the batch the broker sends the whole of it again.
        """
        for number, partition in list(self.partitions.items()):
            place = TopicPartition(self._settings.audio_topic, number)
            while self.partitions.get(number) is partition and place in self.consumer.assignment():
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
            partition = self.partitions.get(place.partition)
            if partition is None:  # taken away, or not restored yet: it will be read again
                continue
            for record in records:
                if record.offset >= partition.next_offset:
                    partition.accept(record.key, record.value, record.offset, record.timestamp)

    async def _retention_passed(self, error: OffsetOutOfRangeError) -> None:
        """The log's start overtook the read position: go on from there; positions show the streams their gap."""
        for place in error.args[0]:
            first = (await self.consumer.beginning_offsets([place]))[place]
            log.error(
                "partition %d: records before offset %d are gone unread; raise the retention of %s",
                place.partition,
                first,
                place.topic,
            )
            self.consumer.seek(place, first)

    def _throttle(self) -> None:
        pressure = self._pressure()
        if pressure == self._paused:
            return
        places = [TopicPartition(self._settings.audio_topic, number) for number in self.partitions]
        places = [place for place in places if place in self.consumer.assignment()]
        self._paused = pressure
        if pressure:
            self.consumer.pause(*places)
        else:
            self.consumer.resume(*places)
        log.debug("reading %s", "paused" if pressure else "resumed")
