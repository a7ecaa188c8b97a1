"""Which partitions this worker has, from assignment to revocation.

A rebalance is eager with this client: all partitions are revoked and those that stay come back. Their streams are kept
meanwhile, and go on from memory.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from worker.delivery.committer import Committer
from worker.delivery.ledger import Lost
from worker.ingest.assignment import Restored, retriable
from worker.partition import Partition
from worker.settings import KafkaSettings
from worker.telemetry import logs

log = logging.getLogger(__name__)

RETRY_S = (0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Holding:
    """A partition that this worker has: its streams, how it commits, and the task that does."""

    partition: Partition
    committer: Committer
    committing: "asyncio.Task[None]"


class Ownership(ConsumerRebalanceListener):  # type: ignore[misc]
    """The partitions that are read, by number. `restore` and `hold` make what is held; `paused`: reading is paused.

    `fault`: what made an assignment fail that must not pass in silence; the reader raises it.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        settings: KafkaSettings,
        restore: Callable[[AIOKafkaConsumer, TopicPartition], Awaitable[Restored]],
        hold: Callable[[int, Restored], Holding],
        paused: Callable[[], bool],
    ) -> None:
        self.holdings: dict[int, Holding] = {}
        self.rebalances = 0
        self.fault: BaseException | None = None
        self._consumer = consumer
        self._settings = settings
        self._restorer = restore
        self._hold = hold
        self._paused = paused
        self._restoring: dict[int, asyncio.Task[None]] = {}
        self._kept: dict[int, Holding] = {}  # revoked; the next assignment says whether they come back
        self._closing: set[asyncio.Task[None]] = set()

    def on_partitions_assigned(self, assigned: list[TopicPartition]) -> None:
        # first of all: records flow before this returns, and from a position that is not ours
        self._consumer.pause(*assigned)
        self.rebalances += 1
        log.info("partitions assigned: %s", sorted(place.partition for place in assigned))
        try:
            self._share_out(assigned)
        except Exception as error:  # the client would only log it
            self.fault = error

    def _share_out(self, assigned: list[TopicPartition]) -> None:
        kept, self._kept = self._kept, {}
        for place in assigned:
            holding = kept.pop(place.partition, None)
            if holding is None:
                self._begin(place)
            else:
                self._go_on(place, holding)
        for number, holding in kept.items():
            self._give_up(number, holding)

    async def on_partitions_revoked(self, revoked: list[TopicPartition]) -> None:
        """Commit what there is and stop reading; sessions are kept until the next assignment says whose they are."""
        self.stop_restoring()
        if not self.holdings:
            return
        log.info("partitions revoked: %s", sorted(self.holdings))
        self._kept |= self.holdings
        self.holdings.clear()
        commits = [asyncio.create_task(holding.committer.commit()) for holding in self._kept.values()]
        done, late = await asyncio.wait(commits, timeout=self._settings.session_timeout_ms / 3000)
        # one that comes late is fenced by the next owner, or good
        errors = [task.exception() for task in done if task.exception() is not None]
        if errors or late:
            log.warning("%d partitions were revoked before all was committed: %r", len(errors) + len(late), errors)
        for holding in self._kept.values():
            holding.committer.hold(True)

    @property
    def partitions(self) -> list[Partition]:
        return [holding.partition for holding in self.holdings.values()]

    async def commit(self) -> None:
        """Commit all there is, at the end. Raises Aborted or Lost, when all partitions have tried."""
        for _ in range(2):  # the first writes what was collected before and aborted, the second what came since
            commits = [holding.committer.commit() for holding in self.holdings.values()]
            ended = await asyncio.gather(*commits, return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    def begin_again(self, number: int) -> None:
        """Forget the partition's streams; what they are is read from the topics again."""
        holding = self.holdings.pop(number)
        self._give_up(number, holding)
        place = TopicPartition(self._settings.audio_topic, number)
        if place in self._consumer.assignment():
            self._consumer.pause(place)
            self._begin(place)

    def stop_restoring(self) -> None:
        for task in self._restoring.values():
            task.cancel()
        self._restoring.clear()

    async def close(self) -> None:
        """Stop committing; close what the partitions are written through."""
        holdings = [*self.holdings.values(), *self._kept.values()]
        self.holdings.clear()
        self._kept.clear()
        for holding in holdings:
            holding.committing.cancel()
        await asyncio.gather(*(holding.committer.close() for holding in holdings), *self._closing)

    def _begin(self, place: TopicPartition) -> None:
        task = asyncio.create_task(self._restore(place), name=f"restore {place.partition}")
        task.add_done_callback(self._watch)
        self._restoring[place.partition] = task

    def _go_on(self, place: TopicPartition, holding: "Holding") -> None:
        """The partition came back: its streams go on from memory. Had another worker fenced it, a commit will say."""
        self.holdings[place.partition] = holding
        self._consumer.seek(place, holding.partition.next_offset)
        if holding.committing.done():  # lost while it was revoked
            self.begin_again(place.partition)
            return
        holding.committer.hold(False)
        if not self._paused():
            self._consumer.resume(place)

    def _give_up(self, number: int, holding: "Holding") -> None:
        """Another worker has the partition, or this one must begin it again: forget its streams."""
        holding.committing.cancel()
        holding.partition.drop()
        closing = asyncio.create_task(holding.committer.close(), name=f"close {number}")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _watch(self, task: "asyncio.Task[None]") -> None:
        """A task that fails unforeseen must not leave its partition unread without a word."""
        if not task.cancelled() and task.exception() is not None:
            self.fault = task.exception()

    def _committing_ended(self, number: int, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            return
        if not isinstance(task.exception(), Lost):
            self.fault = task.exception()
            return
        log.error("%s; the partition's streams are read again", task.exception())
        holding = self.holdings.get(number)
        if holding is not None and holding.committing is task:
            self.begin_again(number)

    async def _restore(self, place: TopicPartition) -> None:
        """Until it succeeds or the partition is taken away."""
        logs.serve(place.partition)
        delays = iter(RETRY_S)
        while True:
            try:
                restored = await self._restorer(self._consumer, place)
                break
            except Exception as error:
                if not retriable(error):
                    raise
                delay = next(delays, RETRY_S[-1])
                log.warning("partition %d cannot be restored yet, again in %.1f s: %r", place.partition, delay, error)
                await asyncio.sleep(delay)
        holding = self._hold(place.partition, restored)
        holding.committing.add_done_callback(partial(self._committing_ended, place.partition))
        self.holdings[place.partition] = holding
        self._restoring.pop(place.partition, None)
        self._consumer.seek(place, restored.resume)
        if not self._paused():
            self._consumer.resume(place)
