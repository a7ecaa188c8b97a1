"""When a partition commits: soon after an event, and every few seconds to move its rows and offset."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from worker.delivery.ledger import Aborted, Batch, Fenced, Ledger, Lost
from worker.failpoint import failpoint
from worker.settings import KafkaSettings
from worker.telemetry import logs
from worker.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

# Then another ledger must try: a client of which a send failed has burnt a sequence number, and takes no later one.
RETRY_S = (0.1, 0.5, 2.0)


class Source(Protocol):
    """What the committer asks of a partition."""

    number: int
    wanted: asyncio.Event  # there is something to publish

    def collect(self) -> Batch | None:
        """All that is new since the last batch; None if nothing is."""

    def published(self) -> None:
        """The last batch is committed."""


class Committer:
    """Commits one partition, batch after batch. `discard` takes the checkpoints that no commit needs any more.

    A batch is collected whole or not at all: between two collections nothing of the partition is visible.
    """

    def __init__(
        self,
        source: Source,
        ledger: Ledger,
        settings: KafkaSettings,
        metrics: Metrics,
        discard: Callable[[Sequence[str]], object],
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._interval = settings.commit_interval_ms / 1000
        self._spacing = settings.commit_spacing_ms / 1000
        self._metrics = metrics
        self._discard = discard
        self._writing = asyncio.Lock()
        self._pending: Batch | None = None  # collected, and aborted so far
        self._open = False  # a write was left half-way: only the topics know what of it is visible
        self._free = asyncio.Event()
        self._free.set()

    async def run(self) -> None:
        """Commit until cancelled. Raises Lost."""
        logs.serve(self._source.number)
        aborted = 0
        while True:
            began = time.monotonic()
            await self._due()
            try:
                await self.commit()
                aborted = 0
            except Aborted as error:
                if aborted == len(RETRY_S):
                    self._metrics.transactions.labels("lost").inc()
                    raise Lost(f"{error}, {aborted + 1} times over") from error
                delay = RETRY_S[aborted]
                aborted += 1
                log.warning("%s; it is written again in %.1f s", error, delay)
                await asyncio.sleep(delay)
            await asyncio.sleep(max(0.0, began + self._spacing - time.monotonic()))

    async def commit(self) -> None:
        """Write what there is, once. Raises Aborted (what was collected waits for the next call) or Lost."""
        async with self._writing:
            if self._pending is None:
                self._source.wanted.clear()
                self._pending = self._source.collect()  # 1
            batch = self._pending
            if batch is None:
                return
            if self._open:
                raise Lost(f"partition {self._source.number}: an earlier commit was left half-way")
            failpoint("commit.1-collected")
            began = time.monotonic()
            self._open = True  # also when this is cancelled
            try:
                await self._ledger.write(batch)  # 2 to 6
            except Aborted:
                self._open = False
                self._metrics.transactions.labels("aborted").inc()
                raise
            except Lost as error:
                self._metrics.transactions.labels("lost").inc()
                if isinstance(error, Fenced):
                    self._metrics.fenced.inc()
                raise
            self._pending, self._open = None, False
            self._source.published()
            self._metrics.transactions.labels("committed").inc()
            self._metrics.commit.observe(time.monotonic() - began)
            now = time.time()
            for letter in batch.letters:
                if letter.timestamp is not None:
                    self._metrics.final_delay.observe(max(0.0, now - letter.timestamp / 1000))
                if letter.spoken is not None:
                    self._metrics.utterance_delay.observe(max(0.0, now - letter.spoken / 1000))
            if batch.superseded:
                self._discard(batch.superseded)  # 7
                failpoint("commit.7-discarded")

    def hold(self, held: bool) -> None:
        """While held, `run` begins no commit: the partition was revoked and may be another worker's."""
        (self._free.clear if held else self._free.set)()

    async def close(self) -> None:
        await self._ledger.stop()

    async def _due(self) -> None:
        """Return when there is an event, or the interval is over; never while held."""
        try:
            async with asyncio.timeout(self._interval):
                await self._source.wanted.wait()
        except TimeoutError:
            pass
        await self._free.wait()
