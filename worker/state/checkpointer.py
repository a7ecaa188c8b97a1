"""Which streams are checkpointed and when, in the background.

1. The stream whose replay would cost most is picked, if that is more than a setting.
2. Its engine state is copied between two steps (scheduler and runner), its host state in the same moment (loop).
3. Both are encoded in a thread and put under a new key, within the bandwidth budget.
4. The stream is told: its partition's next commit relies on that key, and the one before is discarded after it.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from worker.batching.feed import Feed
from worker.batching.scheduler import Scheduler
from worker.engine.interface import SlotState
from worker.state.checkpoint import Checkpoint, CheckpointError, Fingerprint, decode, encode
from worker.state.store import StateStore, StoreUnavailable
from worker.state.subject import Subject
from worker.telemetry.logs import about
from worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from worker.delivery.table import Row

log = logging.getLogger(__name__)

# Streams under way at once: while one waits for its step or for the store, others are encoded.
LANES = 4
FETCHES = 8
IDLE_S = 0.2
PASSED_OVER_S = 10.0
BACKOFF_S = (0.5, 30.0)
DELETED_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """A stream is due when its replay would take `after_ms` of audio; checkpoints take `bytes_per_s` at most."""

    after_ms: int
    bytes_per_s: float


class Checkpointer:
    """`key_prefix` begins every key; it names whatever else shares the store, and the group and topic. `try_out` raises
    for a checkpoint that its stream cannot be made from.

    `available`: the store did what it was last asked. All methods belong to the loop.
    """

    def __init__(
        self,
        store: StateStore,
        scheduler: Scheduler,
        fingerprint: Fingerprint,
        pace: Pace,
        key_prefix: str,
        metrics: Metrics,
        try_out: Callable[["Row", Checkpoint], object],
    ) -> None:
        self.available = True
        self._store = store
        self._scheduler = scheduler
        self._fingerprint = fingerprint
        self._pace = pace
        self._prefix = key_prefix
        self._metrics = metrics
        self._try_out = try_out
        self._asked: dict[Feed, tuple[Subject, asyncio.Future[Checkpoint | None]]] = {}
        self._busy: set[Feed] = set()
        self._not_before: WeakKeyDictionary[Feed, float] = WeakKeyDictionary()  # loop time
        self._due: list[Subject] = []  # the most urgent last
        self._look_at = 0.0  # loop time
        self._draining = asyncio.Event()
        self._free_at = 0.0  # loop time at which the budget allows the next put
        self._retry_at = 0.0
        self._backoff = BACKOFF_S[0]
        self._discarded: deque[str] = deque()
        self._fetches = asyncio.Semaphore(FETCHES)

    async def run(self, subjects: Callable[[], Iterable[Subject]]) -> None:
        """Until cancelled. A store that fails is asked again after a while, which doubles up to half a minute."""
        if not self._store.durable:
            await asyncio.Event().wait()
        await asyncio.gather(self._sweep(), *(self._lane(subjects) for _ in range(LANES)))

    def captured(self, feed: Feed, slot: SlotState | None) -> None:
        """The runner's report of a copy, in the order of its results."""
        state = self._scheduler.captured(feed)
        subject, answer = self._asked.pop(feed, (None, None))
        if subject is None or answer is None or answer.done():
            return
        try:
            answer.set_result(None if state is None else subject.snapshot(slot, state))
        except Exception as error:
            answer.set_exception(error)

    async def save_all(self, subjects: Callable[[], Iterable[Subject]], deadline: float) -> int:
        """At a drain, when no more is read: save what a restart would have to read again, for `deadline` seconds.

        The budget does not count. Returns how many were saved; the others are replayed.
        """
        if not self._store.durable:
            return 0
        self._draining.set()  # `run` begins no more, and what it holds back for the budget goes on
        waiting = sorted(subjects(), key=lambda subject: subject.replay_ms)
        saved = 0

        async def lane() -> None:
            nonlocal saved
            while waiting:
                subject = waiting.pop()
                while subject.feed in self._busy:  # noqa: ASYNC110 one that `run` began
                    await asyncio.sleep(0.01)
                if subject.unsaved and await self._save(subject):
                    saved += 1

        lanes = [asyncio.create_task(lane()) for _ in range(LANES)]
        try:
            async with asyncio.timeout(deadline):
                await asyncio.gather(*lanes)
        except StoreUnavailable as error:
            self._failed(error)
        except TimeoutError:
            log.warning("%d streams could not be checkpointed in %g s", len(waiting), deadline)
        for task in lanes:
            task.cancel()
        await asyncio.gather(*lanes, return_exceptions=True)
        return saved

    async def fetch(self, row: "Row") -> Checkpoint | None:
        """The checkpoint that the row names, if exactly that one is read back and fits this worker; else None."""
        if row.checkpoint is None or not self._store.durable:
            return None
        logged = about(stream=row.stream)
        async with self._fetches:
            if not self._may_try:
                return None  # the store has just failed: replay is better than waiting for each
            try:
                data = await self._store.get(row.checkpoint.key)
            except StoreUnavailable as error:
                self._failed(error)
                return None
            self._succeeded()
            if data is None:
                log.warning("checkpoint %s is gone; the stream is replayed", row.checkpoint.key, extra=logged)
                self._count("missing")
                return None
            try:
                found = await asyncio.to_thread(decode, data, self._fingerprint)
                if (found.stream, found.first_offset, found.offset) != (
                    row.stream,
                    row.first_offset,
                    row.checkpoint.offset,
                ):
                    raise CheckpointError("the checkpoint is of another stream or offset")
                self._try_out(row, found)
            except Exception as error:  # whatever it is, the stream can be replayed
                log.warning(
                    "checkpoint %s is not used, the stream is replayed: %r", row.checkpoint.key, error, extra=logged
                )
                self._count("refused")
                return None
            self._count("restored")
            return found

    def discard(self, keys: Sequence[str]) -> None:
        """Delete superseded checkpoints in the background; those that cannot be are left to their time to live."""
        if self._store.durable:
            self._discarded.extend(keys)

    async def sweep(self) -> None:
        """Delete what was discarded, as far as the store does it at present."""
        while self._discarded and self._may_try:
            keys = [self._discarded.popleft() for _ in range(min(DELETED_AT_ONCE, len(self._discarded)))]
            try:
                await self._store.delete(keys)
            except StoreUnavailable as error:
                log.warning("%d superseded checkpoints are left to their time to live: %s", len(keys), error)
                self._failed(error)

    @property
    def _may_try(self) -> bool:
        return asyncio.get_running_loop().time() >= self._retry_at

    async def _lane(self, subjects: Callable[[], Iterable[Subject]]) -> None:
        while True:
            subject = None if self._draining.is_set() or not self._may_try else self._pick(subjects)
            if subject is None or not await self._try(subject):
                await asyncio.sleep(IDLE_S)

    async def _try(self, subject: Subject) -> bool:
        try:
            if await self._save(subject, budget=True):
                return True
        except StoreUnavailable as error:
            self._failed(error)
            return False
        except Exception:  # a stream without a checkpoint is replayed: no reason to stop all others
            log.exception("a stream could not be checkpointed")
            self._count("failed")
        # not at every look: what is wrong with it will not have passed
        self._not_before[subject.feed] = asyncio.get_running_loop().time() + PASSED_OVER_S
        return False

    def _pick(self, subjects: Callable[[], Iterable[Subject]]) -> Subject | None:
        """The most urgent of those that were due when last looked: with a thousand streams a look takes its time."""
        now, after = asyncio.get_running_loop().time(), self._pace.after_ms
        if not self._due and now >= self._look_at:
            self._look_at = now + IDLE_S
            due = (s for s in subjects() if s.replay_ms >= after and self._not_before.get(s.feed, now) <= now)
            self._due = sorted(due, key=lambda subject: subject.replay_ms)
        while self._due:
            subject = self._due.pop()
            if subject.feed not in self._busy and subject.replay_ms >= after:
                return subject
        return None

    async def _save(self, subject: Subject, budget: bool = False) -> bool:
        """Whether it was saved; not, if the stream is over. Raises StoreUnavailable."""
        self._busy.add(subject.feed)
        try:
            checkpoint = await self._copy(subject)
            if checkpoint is None:
                return False
            data = await asyncio.to_thread(encode, checkpoint, self._fingerprint)
            if budget:
                await self._wait_turn(len(data))
            key = (
                f"{self._prefix}{subject.partition.number}:{checkpoint.stream}:"
                f"{checkpoint.first_offset}:{checkpoint.offset}:{secrets.token_hex(8)}"
            )
            try:
                await self._store.put(key, data)
            except StoreUnavailable:
                self.discard([key])  # it may be there
                raise
            self._succeeded()
            self._count("saved")
            self._metrics.checkpoint_bytes.inc(len(data))
            subject.saved(key, checkpoint.offset)
            return True
        finally:
            self._busy.discard(subject.feed)

    async def _copy(self, subject: Subject) -> Checkpoint | None:
        if not self._scheduler.capture(subject.feed):
            return None
        answer: asyncio.Future[Checkpoint | None] = asyncio.get_running_loop().create_future()
        self._asked[subject.feed] = (subject, answer)
        return await answer

    async def _wait_turn(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        begin = max(now, self._free_at)
        self._free_at = begin + size / self._pace.bytes_per_s
        if begin > now:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), begin - now)

    async def _sweep(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(IDLE_S)

    def _succeeded(self) -> None:
        if not self.available:
            log.info("the state store answers again")
        self.available = True
        self._retry_at = 0.0
        self._backoff = BACKOFF_S[0]

    def _failed(self, error: StoreUnavailable) -> None:
        self._count("failed")
        if self.available:
            log.warning("no checkpoints until the state store is back: %s", error)
        self.available = False
        if self._may_try:  # lanes that fail together count once
            self._retry_at = asyncio.get_running_loop().time() + self._backoff
            self._backoff = min(2 * self._backoff, BACKOFF_S[1])

    def _count(self, outcome: str) -> None:
        self._metrics.checkpoints.labels(outcome).inc()
