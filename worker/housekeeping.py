"""What is looked at twice a second: gauges, and what the clock decides."""

import asyncio
import time

from worker.batching.scheduler import Scheduler
from worker.engine.interface import Engine
from worker.ingest.reader import Reader
from worker.state.checkpointer import Checkpointer
from worker.telemetry.metrics import Metrics

PERIOD_S = 0.5


class Housekeeping:
    """`beat`: when it last began a turn; the event loop stands still if that is long ago."""

    def __init__(
        self, reader: Reader, scheduler: Scheduler, checkpointer: Checkpointer, engine: Engine, metrics: Metrics
    ) -> None:
        self.beat = time.monotonic()
        self._reader = reader
        self._scheduler = scheduler
        self._checkpointer = checkpointer
        self._engine = engine
        self._metrics = metrics
        self._rebalances = 0
        self._caught_up: dict[int, float] = {}  # when a partition was last read to its end, ms since 1970
        self._numbers: set[int] = set()  # partitions that have a lag on the page

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.beat = time.monotonic()
            self._measure()
            await self._look_at_partitions()
            await asyncio.sleep(PERIOD_S)

    def _measure(self) -> None:
        metrics, reader, occupancy = self._metrics, self._reader, self._scheduler.occupancy()
        partitions = reader.partitions
        metrics.open.set(sum(p.open_streams for p in partitions))
        metrics.admitted.set(occupancy.admitted)
        metrics.active.set(occupancy.active)
        metrics.spilled.set(occupancy.spilled)
        metrics.waiting.set(occupancy.waiting)
        metrics.parked.set(sum(len(p.parking) for p in partitions))
        metrics.ready_streams.set(occupancy.ready)
        metrics.queue.set(occupancy.samples / self._engine.info.geometry.sample_rate)
        metrics.unpublished.set(sum(len(p.outbox) for p in partitions))
        metrics.store_up.set(self._checkpointer.available)
        metrics.paused.set(reader.paused)
        metrics.device_memory.set(self._engine.device_memory())
        metrics.rebalances.inc(reader.owned.rebalances - self._rebalances)
        self._rebalances = reader.owned.rebalances

    async def _look_at_partitions(self) -> None:
        metrics, reader = self._metrics, self._reader
        partitions = reader.partitions
        read = 0
        for partition in partitions:
            number = partition.number
            caught_up, reads, unread = await reader.caught_up(number), reader.reads(number), await reader.unread(number)
            read += reads
            label, now = str(number), 1000 * time.time()
            if caught_up:
                self._caught_up[number] = now
            times = partition.oldest_unheard(), partition.last_timestamp, self._caught_up.get(number)
            metrics.lag.labels(label).set(lag(now, *times))
            metrics.lag_audio.labels(label).set(partition.audio_unheard(unread))
            metrics.lag_records.labels(label).set(unread)
            partition.account()
            if caught_up:
                partition.end_idle_streams()
            elif not reads:
                partition.stop_clock()
        metrics.partitions.set(len(partitions))
        metrics.partitions_read.set(read)
        numbers = {partition.number for partition in partitions}
        for number in self._numbers - numbers:
            for gauge in (metrics.lag, metrics.lag_audio, metrics.lag_records):
                gauge.remove(str(number))
            self._caught_up.pop(number, None)
        self._numbers = numbers


def lag(now: float, unheard: float | None, read: float | None, caught_up: float | None) -> float:
    """Seconds since the oldest record not yet through the engine was written; 0 if there is none.

    Times in ms since 1970: of the oldest record that was read and not heard, of the last one read, and when all was
    read last. What is not read yet is younger than both of these.
    """
    unread = max((t for t in (read, caught_up) if t is not None), default=None)
    known = [t for t in (unheard, unread) if t is not None]
    return max(0.0, now - min(known)) / 1000 if known else 0.0
