"""Any interleaving of streams, steps, captures and drops: all audio is heard once, in order, in its stream's state.

A capture is a stream's state of one moment: moved to another engine then, it hears the rest as if nothing had been.
"""

from collections import deque

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from tests.batching.fake import GEOMETRY, MODES, FakeEngine
from worker.batching.feed import PIECE_BYTES, SAMPLE_BYTES, SEGMENT_BYTES
from worker.batching.runner import Runner
from worker.batching.scheduler import Scheduler


def memory(feed):
    """What the feed's waiting pieces and further segments count for."""
    pieces = [piece for run in feed._runs for piece in run.pieces]
    samples = sum(len(piece) for piece in pieces) * SAMPLE_BYTES
    return samples + len(pieces) * PIECE_BYTES + max(0, len(feed._runs) - 1) * SEGMENT_BYTES


class Stream:
    """What was sent of each segment, and what the engine heard."""

    def __init__(self, mode, number):
        self.mode = mode
        self.sent = [0]
        self.heard = [0]
        self.first = number * 100_000  # marks its samples
        self.ended = False
        self.dropped = False
        self.feed = None

    def moved(self):
        """The same stream for another scheduler."""
        other = Stream(self.mode, 0)
        other.first, other.sent, other.heard, other.ended = self.first, [*self.sent], [*self.heard], self.ended
        return other

    def audio(self, samples):
        start = self.first + len(self.sent) * 20_000 + self.sent[-1]
        self.sent[-1] += samples
        return np.arange(start, start + samples, dtype=np.float64)

    def hear(self, row, last):
        if row is not None:
            start = self.first + len(self.heard) * 20_000 + self.heard[-1]
            expected = np.arange(start, start + len(row.samples), dtype=np.float64)
            if not np.array_equal(row.samples, expected):  # a bare assert would print all samples
                raise AssertionError(f"stream {self.first}: {row.samples[:3]} heard, {expected[:3]} sent")
            self.heard[-1] += len(row.samples)
        if last:
            assert self.heard[-1] == self.sent[len(self.heard) - 1]
            assert (row is None) == (self.heard[-1] == 0)
            self.heard.append(0)


def blocked():
    raise AssertionError("streams are ready, but none was taken")


def hear_rest(stream, state, slot):
    """Play a captured stream to its end in another scheduler and another slot."""
    scheduler, engine = Scheduler(GEOMETRY, 2, 2, 2), FakeEngine(2)
    runner = Runner(engine, scheduler, lambda done: None, lambda error: None)
    other = Stream(stream.mode, 99)
    other.feed = scheduler.admit(stream.mode, other)
    scheduler.push(other.feed, other.audio(1480))
    stream.feed = scheduler.admit(stream.mode, stream, state, slot)
    if not stream.ended:
        scheduler.push(stream.feed, stream.audio(1500))
        scheduler.close(stream.feed, ending=True)
    while scheduler.occupancy().ready:
        batch = scheduler.take()
        runner._step(batch)
        for work in batch.work:
            work.feed.owner.hear(work.row, work.last)
        scheduler.done(batch)
    assert stream.heard == [*stream.sent, 0]
    assert scheduler.occupancy().active == 1  # the other stream


class Machine(RuleBasedStateMachine):
    streams = Bundle("streams")

    @initialize(slots=st.integers(1, 3), max_batch=st.integers(1, 4), max_frames=st.integers(1, 5))
    def begin(self, slots, max_batch, max_frames):
        self.slots, self.cap = slots, min(max_batch, slots)
        self.scheduler = Scheduler(GEOMETRY, slots, max_batch, max_frames)
        self.scheduler._changed.wait = blocked
        self.engine = FakeEngine(slots)
        self.loop = deque()  # what the thread has called back, not yet seen by the loop
        self.runner = Runner(self.engine, self.scheduler, lambda done: None, lambda error: None, self.copied)
        self.all = []
        self.batch = None
        self.asked = 0

    @rule(target=streams, mode=st.sampled_from(MODES))
    def admit(self, mode):
        stream = Stream(mode, len(self.all))
        stream.feed = self.scheduler.admit(mode, stream)
        self.all.append(stream)
        return stream

    @rule(stream=streams, samples=st.sampled_from([1, 200, 700, 1280, 3000, 9000]))
    def push(self, stream, samples):
        if not stream.ended and stream.sent[-1] < 10_000:
            self.scheduler.push(stream.feed, stream.audio(samples))

    @rule(stream=streams)
    def flush(self, stream):
        if not stream.ended and len(stream.sent) < 5:
            self.scheduler.close(stream.feed, ending=False)
            stream.sent.append(0)

    @rule(stream=consumes(streams))
    def end(self, stream):
        if not stream.ended:
            stream.ended = True
            self.scheduler.close(stream.feed, ending=True)

    @rule(stream=consumes(streams))
    def drop(self, stream):
        stream.ended = stream.dropped = True
        self.scheduler.drop(stream.feed)

    @rule(stream=streams)
    def capture(self, stream):
        expected = not (stream.feed.capturing or stream.feed.dropped or stream.feed.finished)
        assert self.scheduler.capture(stream.feed) == expected
        self.asked += expected

    def copied(self, feed, slot):
        self.loop.append(lambda: self.captured(feed, slot))

    def captured(self, feed, slot):
        self.asked -= 1
        state = self.scheduler.captured(feed)
        if feed.dropped:
            assert state is None
            return
        assert sum(run["received"] - run["taken"] for run in state.runs) == sum(feed.owner.sent) - sum(feed.owner.heard)
        hear_rest(feed.owner.moved(), state, slot)

    @rule()
    def take(self):
        if self.batch is not None:
            return
        ready = any(not entry[2].dropped for heap in self.scheduler._ready.values() for entry in heap)
        if ready or self.scheduler._wanted:
            self.batch = self.scheduler.take()
            feeds = [work.feed for work in self.batch.work]
            assert len(feeds) <= self.cap
            assert feeds or self.batch.capture
            assert bool(feeds) == ready
            assert len(set(feeds)) == len(feeds)
            assert len({feed.mode for feed in feeds}) <= 1
            assert not any(feed.dropped for feed in feeds)

    @rule()
    def step(self):
        """The thread: results come to the loop in order, some time later."""
        if self.batch is None:
            return
        batch, self.batch = self.batch, None
        done = self.runner._step(batch)
        assert [work for work, _ in done.results] == batch.work
        self.loop.append(lambda: [work.feed.owner.hear(work.row, work.last) for work in batch.work])
        self.scheduler.done(batch)

    @rule()
    def hear(self):
        if self.loop:
            self.loop.popleft()()

    @invariant()
    def the_books_are_right(self):
        if not hasattr(self, "all"):
            return
        feeds = [stream.feed for stream in self.all]
        slots = [feed.slot for feed in feeds if feed.slot is not None]
        assert sorted(slots + self.scheduler._free) == list(range(self.slots))
        taken = set() if self.batch is None else {work.feed for work in self.batch.work}
        assert {feed for feed in feeds if feed.in_flight} == taken
        mine = [feed for feed in feeds if feed in self.scheduler._feeds]
        assert self.scheduler.occupancy().samples == sum(feed.waiting for feed in mine)
        assert self.scheduler.waiting_bytes == sum(memory(feed) for feed in mine)

    def teardown(self):
        """Whatever was ready is heard to the end, however few the slots."""
        if not hasattr(self, "all"):
            return
        for stream in self.all:
            if not stream.ended:
                stream.ended = True
                self.scheduler.close(stream.feed, ending=True)
        for _ in range(10_000):
            self.step()
            self.take()
            if self.batch is None:
                break
        while self.loop:
            self.loop.popleft()()
        assert self.asked == 0  # every request was answered
        for stream in self.all:
            if not stream.dropped:
                assert stream.heard == [*stream.sent, 0]
        assert self.scheduler.waiting_bytes == 0
        assert self.scheduler.occupancy().active == 0
        assert len(self.scheduler._free) == self.slots


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
