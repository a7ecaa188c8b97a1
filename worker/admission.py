"""Which streams may hold audio when memory does not suffice for all, and when those that wait come back.

A stream that has a slot keeps its audio. One that has none is parked, the newest first, when waiting audio takes more
than half of its memory; it comes back, the oldest first, when a slot is vacant. Reading pauses only when what streams
with slots hold fills the memory.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError, OffsetOutOfRangeError, UnsupportedCodecError

from worker.batching.scheduler import Scheduler
from worker.ingest.assignment import Checkpoints
from worker.ingest.ownership import Ownership
from worker.leaving import stop_consumer
from worker.live import LiveStream
from worker.parking import ReadAgain
from worker.partition import Partition

log = logging.getLogger(__name__)

PARK_AT = 0.5  # of the memory
RETURN_AT = 0.35
UNPUBLISHED = 16_000_000  # bytes of events and rejects; a rejected record brings up to 64 KiB
TURN_S = 0.05
POLL_MS = 50
POLL_RECORDS = 100  # what may come on top of the memory
RETRY_S = 1.0
START_S = 15.0
STOP_S = 5.0


class Admission:
    """`memory`: bytes of waiting audio. `owned`: the partitions that are read."""

    def __init__(
        self,
        scheduler: Scheduler,
        memory: int,
        owned: Ownership,
        topic: str,
        client: dict[str, Any],
        checkpoints: Checkpoints,
    ) -> None:
        self._scheduler = scheduler
        self._memory = memory
        self._owned = owned
        self._topic = topic
        self._client = client
        self._checkpoints = checkpoints
        self._tasks: set[asyncio.Task[None]] = set()
        self.fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pressure(self) -> bool:
        """Whether reading must pause: for events that the brokers have not taken, or for audio.

        Never for audio while the engine has nothing to do: reading on is the way out.
        """
        if self._waiting > PARK_AT * self._memory:
            self._park()
        if sum(partition.outbox.size for partition in self._owned.partitions) > UNPUBLISHED:
            return True
        return self._waiting > self._memory and not self._scheduler.idle

    async def run(self) -> None:
        """Bring parked streams back as slots fall vacant, until cancelled."""
        try:
            while True:
                await asyncio.sleep(TURN_S)
                room = self._scheduler.vacancies()
                if room > 0 and self._waiting < RETURN_AT * self._memory:
                    self._bring_back(room)
        finally:
            for task in self._tasks:
                task.cancel()

    @property
    def _waiting(self) -> int:
        return self._scheduler.waiting_bytes

    def _park(self) -> None:
        streams: list[LiveStream] = [feed.owner for feed in self._scheduler.starving()]
        homes = {partition.number: partition for partition in self._owned.partitions}
        for live in streams:
            if self._waiting <= RETURN_AT * self._memory:
                return
            home = homes.get(live.partition.number)
            if home is not None and live.row.stream not in home.parking:
                home.park(live)

    def _bring_back(self, room: int) -> None:
        homes = [p for p in self._owned.partitions if len(p.parking) and p.parking.returning is None]
        for home in sorted(homes, key=lambda p: min(p.parking.oldest, default=0)):
            if room <= 0:
                return
            parked = home.parking.longest_waiting(room)
            room -= len(parked)
            returning = home.parking.read_again(parked)
            task = asyncio.create_task(self._return(home, returning), name=f"read again {home.number}")
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _return(self, home: Partition, returning: ReadAgain) -> None:
        """Read the partition for these names alone, from their resume point until they have caught up."""
        fetched = {key: await self._checkpoints.fetch(row) for key, row in returning.rows.items()}
        found = {key: checkpoint for key, checkpoint in fetched.items() if checkpoint is not None}
        while not home.dropped:
            try:
                await self._read(home, returning, found)
                return
            except (KafkaError, TimeoutError) as error:
                log.warning("partition %d: parked streams cannot be read yet: %r", home.number, error)
                await asyncio.sleep(RETRY_S)

    async def _read(self, home: Partition, returning: ReadAgain, found: Mapping[bytes, Any]) -> None:
        place = TopicPartition(self._topic, home.number)
        consumer = AIOKafkaConsumer(
            **self._client, enable_auto_commit=False, auto_offset_reset="none", isolation_level="read_committed"
        )
        try:
            async with asyncio.timeout(START_S):
                await consumer.start()
            consumer.assign([place])
            if not returning.begun:
                first = (await consumer.beginning_offsets([place]))[place]
                if home.dropped:
                    return
                returning.begin(first, found)
            consumer.seek(place, returning.next_offset)
            while not home.dropped and not home.parking.join():
                if self._waiting > PARK_AT * self._memory and not self._scheduler.idle:
                    await asyncio.sleep(TURN_S)
                    continue
                try:
                    records = (await consumer.getmany(place, timeout_ms=POLL_MS, max_records=POLL_RECORDS)).get(
                        place, []
                    )
                except (UnsupportedCodecError, CorruptRecordException):  # rejected when it was read first
                    returning.skip()
                    consumer.seek(place, returning.next_offset)
                    continue
                except OffsetOutOfRangeError:
                    log.error("partition %d: records of parked streams are gone unread", home.number)
                    if not home.dropped:
                        self._owned.begin_again(home.number)  # which gives each stream its gap
                    return
                for record in records:
                    returning.accept(record.key, record.value, record.offset, record.timestamp)
        finally:
            await stop_consumer(consumer, STOP_S)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self.fault.done():
            self.fault.set_exception(task.exception() or RuntimeError())
