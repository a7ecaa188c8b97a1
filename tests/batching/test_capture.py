"""A copy of one stream, taken between two steps while the others, and it itself, go on."""

import queue
import random
import time

import numpy as np
import pytest

from tests.batching.fake import GEOMETRY, MODES, FakeEngine
from tests.batching.test_runner import wait_until
from worker.batching.feed import FeedState
from worker.batching.runner import Runner
from worker.batching.scheduler import Scheduler
from worker.engine.interface import SlotState

FAST, SLOW, _ = MODES
CHUNK = GEOMETRY.chunk_end(0, 0)  # 200
NEXT = GEOMETRY.chunk_samples(0)  # 1280


def zeros(count=CHUNK):
    return np.zeros(count, np.float32)


def steps(scheduling, slots=4, reports=None):
    """A runner to call `_step` of on this thread."""
    reports = [] if reports is None else reports
    return Runner(FakeEngine(slots), scheduling, lambda done: None, pytest.fail, lambda *report: reports.append(report))


def test_a_stream_that_was_never_stepped_has_no_engine_state():
    scheduling, reports = Scheduler(GEOMETRY, 4, 4, 4), []
    runner = steps(scheduling, reports=reports)
    feed = scheduling.admit(FAST, "a")
    scheduling.push(feed, np.arange(150, dtype=np.float32))
    assert scheduling.capture(feed)
    batch = scheduling.take()
    assert batch.work == []
    scheduling.push(feed, np.arange(150, 160, dtype=np.float32))  # comes before the loop is told
    runner._step(batch)
    assert reports == [(feed, None)]
    state = scheduling.captured(feed)
    assert (state.mode, state.ending) == (FAST, False)
    (run,) = state.runs
    assert (run["received"], run["taken"], run["chunks"], run["closed"]) == (160, 0, 0, False)
    assert np.array_equal(np.frombuffer(run["samples"], "<f4"), np.arange(160))


def test_what_a_step_takes_after_the_copy_is_still_in_the_captured_audio():
    scheduling, reports = Scheduler(GEOMETRY, 4, 4, 1), []
    runner = steps(scheduling, reports=reports)
    feed = scheduling.admit(FAST, "a")
    scheduling.push(feed, zeros(CHUNK))
    runner._step(first := scheduling.take())
    scheduling.done(first)
    scheduling.push(feed, zeros(NEXT))
    scheduling.capture(feed)
    batch = scheduling.take()
    assert [work.feed for work in batch.work] == [feed]
    runner._step(batch)
    scheduling.push(feed, zeros(5))
    scheduling.close(feed, ending=False)
    scheduling.push(feed, zeros(7))
    state = scheduling.captured(feed)
    assert [(len(run["samples"]) // 4, run["taken"], run["chunks"], run["closed"]) for run in state.runs] == [
        (NEXT + 5, CHUNK, 1, True),
        (7, 0, 0, False),
    ]
    ((_, slot),) = reports
    assert sum(map(len, slot.tensors["heard"])) == CHUNK


def test_one_stream_is_copied_a_step_and_ready_work_does_not_wait_for_more():
    scheduling, reports = Scheduler(GEOMETRY, 4, 1, 1), []
    runner = steps(scheduling, reports=reports)
    feeds = [scheduling.admit(FAST, name) for name in "abc"]
    for feed in feeds:
        scheduling.push(feed, zeros(CHUNK))
    for feed in reversed(feeds):
        scheduling.capture(feed)
    seen = []
    for _ in range(3):
        batch = scheduling.take()
        runner._step(batch)
        scheduling.done(batch)
        seen.append((batch.work[0].feed.owner, reports[-1][0].owner))
    assert seen == [("a", "c"), ("b", "b"), ("c", "a")]


def test_a_second_request_has_no_effect_until_the_first_is_answered():
    scheduling = Scheduler(GEOMETRY, 4, 4, 4)
    runner = steps(scheduling)
    feed = scheduling.admit(FAST, "a")
    assert [scheduling.capture(feed), scheduling.capture(feed)] == [True, False]
    runner._step(scheduling.take())
    assert scheduling.capture(feed) is False
    assert scheduling.captured(feed) is not None
    assert scheduling.capture(feed) is True


@pytest.mark.parametrize("when", ["before the copy", "after the copy"])
def test_a_request_for_a_stream_that_is_dropped_is_answered_with_nothing(when):
    scheduling, reports = Scheduler(GEOMETRY, 4, 4, 4), []
    runner = steps(scheduling, reports=reports)
    feed = scheduling.admit(FAST, "a")
    scheduling.push(feed, zeros())
    batch = scheduling.take()
    runner._step(batch)
    scheduling.done(batch)
    scheduling.capture(feed)
    if when == "before the copy":
        scheduling.drop(feed)
    batch = scheduling.take()
    if when == "after the copy":
        scheduling.drop(feed)
    runner._step(batch)
    assert reports[0][0] is feed
    assert scheduling.captured(feed) is None
    assert scheduling.capture(feed) is False


def test_a_spilled_stream_is_captured_without_a_slot_and_one_that_is_just_spilled_without_a_second_copy():
    scheduling, reports = Scheduler(GEOMETRY, 1, 1, 4), []
    runner = steps(scheduling, 1, reports)
    old, new = scheduling.admit(FAST, "old"), scheduling.admit(FAST, "new")
    scheduling.push(old, zeros())
    runner._step(batch := scheduling.take())
    scheduling.done(batch)
    scheduling.push(new, zeros())
    scheduling.capture(old)
    batch = scheduling.take()
    assert [feed for feed, _ in batch.spill] == [old]
    runner._step(batch)
    scheduling.done(batch)
    assert reports == [(old, old.saved)]
    scheduling.captured(old)
    scheduling.capture(old)
    scheduling.push(old, zeros(NEXT))
    batch = scheduling.take()
    saved = old.saved
    assert [feed for feed, _ in batch.admit] == [old]  # comes back in the same turn
    runner._step(batch)
    assert reports[1] == (old, saved)


def test_states_that_fit_no_stream_are_refused():
    scheduling = Scheduler(GEOMETRY, 4, 4, 4)
    run = {"samples": b"", "received": 200, "taken": 200, "chunks": 1, "closed": False}
    begun = FeedState(FAST, [run], False)
    with pytest.raises(ValueError, match="missing in the middle"):
        scheduling.admit(FAST, "a", begun)
    with pytest.raises(ValueError, match="not of"):
        scheduling.admit(SLOW, "a", FeedState(FAST, [run | {"received": 0, "taken": 0}], False))
    with pytest.raises(ValueError, match="not of"):
        scheduling.admit(FAST, "a", begun, SlotState(SLOW, {}, {}))
    with pytest.raises(ValueError, match="without a segment"):
        scheduling.admit(FAST, "a", FeedState(FAST, [], True))
    with pytest.raises(ValueError, match="0 samples wait, 1 were to come"):
        scheduling.admit(FAST, "a", FeedState(FAST, [run | {"received": 201}], False), SlotState(FAST, {}, {}))
    assert scheduling.waiting_bytes == 0
    assert scheduling.occupancy().spilled == 0


def test_a_thread_without_work_still_copies_at_once_and_then_sleeps():
    scheduling, reports = Scheduler(GEOMETRY, 2, 2, 1), queue.SimpleQueue()
    delivered = []
    runner = Runner(FakeEngine(2), scheduling, delivered.append, pytest.fail, lambda *report: reports.put(report))
    runner.start()
    feed = scheduling.admit(FAST, "a")
    for _ in range(3):
        scheduling.capture(feed)
        assert reports.get(timeout=5) == (feed, None)
        scheduling.captured(feed)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1  # no busy loop
    scheduling.stop()
    runner.join(5)
    assert delivered == []


class Loop:
    """The event loop's part: the thread's calls come in order, some time later."""

    def __init__(self, slots):
        self.scheduler = Scheduler(GEOMETRY, slots, 4, 3)
        self.calls = queue.SimpleQueue()
        self.runner = Runner(
            FakeEngine(slots),
            self.scheduler,
            lambda done: self.calls.put(("deliver", done.results)),
            lambda error: self.calls.put(("fail", error)),
            lambda feed, slot: self.calls.put(("captured", feed, slot)),
        )
        self.runner.start()

    def close(self):
        self.scheduler.stop()
        self.runner.join(5)


def test_captures_at_any_moment_of_many_streams_on_a_running_thread_lose_nothing():
    """Every capture goes on in a second worker, with the audio that the first one gets after it."""
    rng = random.Random(5)
    first, second = Loop(slots=3), Loop(slots=2)
    streams = {}
    for name in range(12):
        streams[name] = {"sent": 0, "length": rng.randrange(6_000, 30_000), "heard": 0, "feed": None, "captures": 0}
        streams[name]["feed"] = first.scheduler.admit(rng.choice(MODES), name)
    moved = {}  # (name, number) -> [feed, heard]

    def audio(name, start, stop):
        return np.arange(name * 100_000 + start, name * 100_000 + stop, dtype=np.float32)

    def hear(results, heard_of):
        for work, _ in results:
            if work.row is not None:
                account = heard_of(work.feed.owner)
                name = work.feed.owner if isinstance(work.feed.owner, int) else work.feed.owner[0]
                count = len(work.row.samples)
                assert np.array_equal(work.row.samples, audio(name, account["heard"], account["heard"] + count))
                account["heard"] += count

    def drain(loop, heard_of):
        while True:
            try:
                kind, *what = loop.calls.get_nowait()
            except queue.Empty:
                return
            if kind == "deliver":
                hear(what[0], heard_of)
                continue
            assert kind == "captured", what
            feed, slot = what
            state = loop.scheduler.captured(feed)
            if state is None:
                continue
            stream = streams[feed.owner]
            key = (feed.owner, stream["captures"])
            stream["captures"] += 1
            moved[key] = {"heard": stream["heard"], "feed": second.scheduler.admit(feed.mode, key, state, slot)}

    open_streams = set(streams)
    while open_streams:
        name = rng.choice(sorted(open_streams))
        stream = streams[name]
        feeds = [(first, stream["feed"])] + [(second, m["feed"]) for key, m in moved.items() if key[0] == name]
        stop = min(stream["length"], stream["sent"] + rng.randrange(1, 900))
        for loop, feed in feeds:
            loop.scheduler.push(feed, audio(name, stream["sent"], stop))
            if stop == stream["length"]:
                loop.scheduler.close(feed, ending=True)
        stream["sent"] = stop
        if stop == stream["length"]:
            open_streams.discard(name)
        if rng.random() < 0.15:
            first.scheduler.capture(streams[rng.choice(sorted(streams))]["feed"])
        if rng.random() < 0.3:
            time.sleep(rng.random() * 0.002)
        if rng.random() < 0.5:
            drain(first, streams.__getitem__)
            drain(second, moved.__getitem__)
    wait_until(lambda: first.scheduler.idle and not first.scheduler._wanted)
    drain(first, streams.__getitem__)
    wait_until(lambda: second.scheduler.idle)
    drain(second, moved.__getitem__)
    first.close()
    second.close()
    assert len(moved) > 20
    assert all(stream["heard"] == stream["length"] for stream in streams.values())
    assert all(part["heard"] == streams[name]["length"] for (name, _), part in moved.items())
