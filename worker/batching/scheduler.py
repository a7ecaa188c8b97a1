"""Where the event loop and the model's thread meet.

The loop pushes audio; the thread takes the next batch the moment it is free. A batch is whatever is ready, the
longest waiting first, of one mode, up to the cap; there is no timer. A stream is ready when it has a chunk of
audio or its segment has ended.
"""

import heapq
import itertools
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from worker.batching.feed import Feed, FeedState
from worker.engine.interface import Geometry, Mode, Row, SlotState

_Entry = tuple[float, int, Feed]  # when its audio had come, order of arrival, the stream


@dataclass(slots=True)
class Work:
    """One stream's part of a batch. `row` is None where the engine has nothing to do (an empty segment)."""

    feed: Feed
    row: Row | None
    last: bool


@dataclass(slots=True)
class Capture:
    """One stream's engine state to copy: from its slot, else what was saved before, else there is none."""

    feed: Feed
    slot: int | None
    saved: SlotState | None


@dataclass(slots=True)
class Batch:
    """What the thread does next: copy out, copy in or open, then step. Without work there is only the capture."""

    work: list[Work] = field(default_factory=list)
    spill: list[tuple[Feed, int]] = field(default_factory=list)
    admit: list[tuple[Feed, int]] = field(default_factory=list)
    capture: Capture | None = None


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Streams admitted, by where their engine state is, and audio waiting, in samples.

    active: hold a slot. spilled: their state lies in host memory. waiting: could step now, but for want of a slot.
    """

    admitted: int
    active: int
    spilled: int
    waiting: int
    ready: int
    samples: int


class Scheduler:
    """Ready streams, earliest first, and the slots they hold.

    `admit`, `push`, `close`, `drop`, `capture`, `captured` belong to the loop; `take` and `done` to the model's
    thread.

    A capture copies one stream's engine state between two steps, and the audio that goes with it:
    1. `capture` asks for it (loop).
    2. `take` finds the stream at rest, begins the mirror of its audio and says what to copy, one stream a step.
    3. The runner makes the copy before the step, and reports it after the results of all earlier steps.
    4. `captured` ends the mirror (loop): audio pushed so far less what the steps reported so far have taken.
    """

    def __init__(self, geometry: Geometry, slots: int, max_batch: int, max_frames: int) -> None:
        self._geometry = geometry
        self._max_batch = min(max_batch, slots)
        self._max_frames = max_frames
        self._free = list(range(slots - 1, -1, -1))
        self._resident: OrderedDict[Feed, None] = OrderedDict()  # slot holders, longest unused first
        self._ready: dict[Mode, list[_Entry]] = {}
        self._feeds: set[Feed] = set()
        self._wanted: deque[Feed] = deque()  # captures asked for
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._samples = 0
        self._bytes = 0
        self._stopped = False
        self._held = False

    def admit(self, mode: Mode, owner: Any, state: FeedState | None = None, saved: SlotState | None = None) -> Feed:
        """A new stream or, with `state`, one that goes on from a capture; `saved` is loaded when it gets a slot.

        Raises ValueError for a state of another mode or one that fits no stream.
        """
        feed = Feed(mode, self._geometry, owner, time.monotonic())
        if state is not None:
            feed.restore(state, time.monotonic())
            if feed.begun and saved is None:
                raise ValueError("the engine's state is missing in the middle of a segment")
        if any(found is not None and found.mode != mode for found in (state, saved)):
            raise ValueError(f"the state is not of {mode}")
        feed.saved = saved
        with self._changed:
            self._feeds.add(feed)
            self._samples += feed.waiting
            self._bytes += feed.bytes
            self._offer(feed)
        return feed

    def push(self, feed: Feed, samples: Any) -> None:
        with self._changed:
            if feed.dropped:
                return
            before = feed.bytes
            feed.push(samples, time.monotonic())
            self._samples += len(samples)
            self._bytes += feed.bytes - before
            self._offer(feed)

    def close(self, feed: Feed, ending: bool) -> None:
        """End the feed's segment; with `ending`, the stream: its slot is freed after the last step."""
        with self._changed:
            if feed.dropped:
                return
            before = feed.bytes
            feed.close(time.monotonic(), ending)
            self._bytes += feed.bytes - before
            self._offer(feed)

    def drop(self, feed: Feed) -> None:
        """Forget a stream at once; a step under way for it is finished and its result is the caller's to ignore."""
        with self._changed:
            feed.dropped = True
            if feed.queued:
                # at once: `idle` must not wait for the thread to find out
                heap = self._ready[feed.mode]
                heap[:] = [entry for entry in heap if entry[2] is not feed]
                heapq.heapify(heap)
                feed.queued = False
            if not feed.in_flight:
                self._release(feed)

    def capture(self, feed: Feed) -> bool:
        """Ask for a copy; False, and no effect, if one is under way or the stream is over.

        The runner answers every request, also when the stream was dropped meanwhile.
        """
        with self._changed:
            if feed.capturing or feed.dropped or feed.finished:
                return False
            feed.capturing = True
            self._wanted.append(feed)
            self._changed.notify()
            return True

    def captured(self, feed: Feed) -> FeedState | None:
        """In answer to the runner's report: the audio that the copied state has not heard.

        None if the stream was dropped or is over.
        """
        with self._changed:
            state = feed.captured()
            return None if feed.dropped else state

    def hold(self) -> None:
        """Begin no more steps. Copies that are asked for are still made."""
        with self._changed:
            self._held = True

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def occupancy(self) -> Occupancy:
        with self._changed:
            return Occupancy(
                admitted=len(self._feeds),
                active=len(self._resident),
                spilled=sum(1 for feed in self._feeds if feed.saved is not None),
                waiting=max(0, -self._vacancies()),
                ready=sum(len(heap) for heap in self._ready.values()),
                samples=self._samples,
            )

    def starving(self) -> list[Feed]:
        """Streams that could step but for a slot, and have no claim to one; the last begun first.

        A claim have the first begun of all that have something to do, as many as there are slots. What another without
        a slot holds is less than a chunk.
        """
        with self._changed:
            busy = (feed for feed in self._resident if feed.queued or feed.in_flight)
            contenders = sorted([*self._wanting(), *busy], key=lambda feed: feed.began)
            slots = len(self._free) + len(self._resident)
            return [feed for feed in contenders[slots:] if feed.slot is None][::-1]

    def vacancies(self) -> int:
        """Slots that a stream could have at once: free, or of a stream that waits for audio; less those waiting."""
        with self._changed:
            return self._vacancies()

    def waiting(self, feeds: Iterable[Feed]) -> int:
        """Samples of these streams that were not taken yet."""
        with self._changed:
            return sum(feed.waiting for feed in feeds)

    @property
    def idle(self) -> bool:
        """Nothing is ready and nothing is under way."""
        with self._changed:
            return not any(self._ready.values()) and not any(f.in_flight for f in self._feeds)

    @property
    def at_rest(self) -> bool:
        """No step is under way."""
        with self._changed:
            return not any(feed.in_flight for feed in self._feeds)

    @property
    def waiting_bytes(self) -> int:
        """Memory that waiting audio and segments take, about."""
        return self._bytes

    def take(self) -> Batch | None:
        """Block until there is something to do; None once stopped."""
        with self._changed:
            while True:
                if self._stopped:
                    return None
                capture = self._next_capture()  # first: a batch takes audio
                batch = Batch() if self._held else self._assemble()
                batch.capture = capture
                if batch.work or capture:
                    return batch
                self._changed.wait()

    def done(self, batch: Batch) -> None:
        """The batch was computed; its streams may be taken again."""
        with self._changed:
            for work in batch.work:
                feed = work.feed
                feed.in_flight = False
                if feed.dropped or feed.finished:
                    self._release(feed)
                else:
                    self._offer(feed)

    def _offer(self, feed: Feed) -> None:
        if feed.in_flight or feed.queued or feed.dropped:
            return
        due = feed.due()
        if due is not None:
            feed.queued = True
            heapq.heappush(self._ready.setdefault(feed.mode, []), (due, next(self._order), feed))
            self._changed.notify()

    def _assemble(self) -> Batch:
        """One mode's ready streams, earliest first.

        The mode is that of the stream that has waited longest, of those that can step: one without a slot would keep
        other modes from theirs for as long as it waits.
        """
        batch = Batch()
        self._take_back(batch)
        for heap in self._by_wait():
            starved: list[_Entry] = []
            while heap and len(batch.work) < self._max_batch:
                entry = heapq.heappop(heap)
                feed = entry[2]
                if feed.dropped:
                    continue
                if feed.silent or self._seat(feed, batch):
                    batch.work.append(self._work(feed))
                else:
                    starved.append(entry)
            for entry in starved:
                heapq.heappush(heap, entry)
            if batch.work:
                break
        return batch

    def _by_wait(self) -> list[list[_Entry]]:
        """Each mode's ready streams; first the mode of the one that has waited longest and can step."""
        heaps = [heap for heap in self._ready.values() if heap]
        if len(heaps) < 2:
            return heaps
        vacant = bool(self._free) or any(not feed.queued for feed in self._resident)
        first = {
            id(heap): min((e[:2] for e in heap if vacant or e[2].silent or e[2].slot is not None), default=None)
            for heap in heaps
        }
        return sorted(heaps, key=lambda heap: first[id(heap)] or (math.inf, 0))

    def _next_capture(self) -> Capture | None:
        for feed in self._wanted:
            if not feed.in_flight:
                self._wanted.remove(feed)
                feed.reflect()
                return Capture(feed, feed.slot, feed.saved)
        return None

    def _work(self, feed: Feed) -> Work:
        silent, before = feed.silent, feed.bytes
        samples, last = feed.take(max(1, self._max_frames // self._geometry.chunk_frames(feed.mode.look_ahead)))
        self._samples -= len(samples)
        self._bytes += feed.bytes - before
        feed.queued = False
        feed.in_flight = True
        if silent:
            return Work(feed, None, last)
        assert feed.slot is not None
        self._resident.move_to_end(feed)
        return Work(feed, Row(feed.slot, samples, last), last)

    def _seat(self, feed: Feed, batch: Batch) -> bool:
        """Give the feed a slot: its own, a free one, or that of the stream idle for longest."""
        if feed.slot is not None:
            return True
        if self._free:
            slot = self._free.pop()
        else:
            idle = next((f for f in self._resident if not f.queued and not f.in_flight), None)
            if idle is None:
                return False
            assert idle.slot is not None
            slot, idle.slot = idle.slot, None
            del self._resident[idle]
            batch.spill.append((idle, slot))
        feed.slot = slot
        self._resident[feed] = None
        batch.admit.append((feed, slot))
        return True

    def _take_back(self, batch: Batch) -> None:
        """Streams that want a slot take those of streams that began later and wait as well, if none is vacant: as many
        as step at once, since each costs two copies.

        Else a stream that had nothing to do for a moment would wait behind the whole backlog of the one that got its
        slot meanwhile.
        """
        if len(self._resident) == len(self._feeds) or any(not feed.queued for feed in self._resident) or self._free:
            return
        holders = sorted(self._resident, key=lambda feed: feed.began)
        for feed in self._wanting()[: self._max_batch]:
            if not holders or holders[-1].began <= feed.began:
                return
            other = holders.pop()
            slot, other.slot = other.slot, None
            assert slot is not None
            del self._resident[other]
            batch.spill.append((other, slot))
            feed.slot = slot
            self._resident[feed] = None
            batch.admit.append((feed, slot))

    def _wanting(self) -> list[Feed]:
        """Streams that could step but for a slot, the first begun first."""
        wanting = (f for f in self._feeds if f.slot is None and f.queued and not f.silent)
        return sorted(wanting, key=lambda feed: feed.began)

    def _release(self, feed: Feed) -> None:
        if feed not in self._feeds:
            return
        self._feeds.discard(feed)
        self._samples -= feed.waiting
        self._bytes -= feed.bytes
        self._resident.pop(feed, None)
        feed.saved = None
        feed.dropped = True
        if feed.slot is not None:
            self._free.append(feed.slot)
            feed.slot = None
            self._changed.notify()

    def _vacancies(self) -> int:
        idle = sum(1 for feed in self._resident if not feed.queued and not feed.in_flight)
        return len(self._free) + idle - len(self._wanting())
