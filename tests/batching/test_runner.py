"""The thread of the model: order of results, failures, and many producers at once."""

import random
import threading
import time

import numpy as np
import pytest

from tests.batching.fake import GEOMETRY, MODES, FakeEngine
from worker.batching.runner import Runner
from worker.batching.scheduler import Scheduler

FAST = MODES[0]
SEGMENT = 16_000  # values of a stream's samples tell stream, segment and place


class Collected:
    """Puts together what the engine heard of each stream."""

    def __init__(self, engine, scheduler):
        self.heard = {}
        self.batches = []
        self.error = None
        self.runner = Runner(engine, scheduler, self.deliver, self.fail)

    def deliver(self, done):
        assert threading.current_thread() is self.runner
        self.batches.append(done)
        for work, tokens in done.results:
            segments = self.heard.setdefault(work.feed.owner, [[]])
            if work.row is not None:
                segments[-1].append(work.row.samples)
                assert tokens.heard > 0
            if work.last:
                segments.append([])

    def fail(self, error):
        self.error = error

    def of(self, owner):
        return [np.concatenate([*parts, np.zeros(0)]) for parts in self.heard[owner][:-1]]


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def test_results_come_in_order_with_their_counts():
    scheduler = Scheduler(GEOMETRY, 2, 2, 1)
    collected = Collected(FakeEngine(2), scheduler)
    feeds = [scheduler.admit(FAST, name) for name in "ab"]
    for feed in feeds:
        scheduler.push(feed, np.arange(200 + 3 * 1280, dtype=np.float32))
        scheduler.close(feed, ending=True)
    collected.runner.start()
    wait_until(lambda: scheduler.idle)
    scheduler.stop()
    collected.runner.join(5)
    assert [(done.rows, done.samples) for done in collected.batches] == [(2, 400)] + [(2, 2560)] * 3
    assert all(done.seconds >= 0 for done in collected.batches)
    assert [len(s) for s in collected.of("a") + collected.of("b")] == [4040, 4040]


def test_sixteen_ready_streams_of_mixed_length_are_one_step_of_the_engine():
    scheduler = Scheduler(GEOMETRY, 16, 16, 4)
    engine = FakeEngine(16)
    collected = Collected(engine, scheduler)
    for number in range(16):
        feed = scheduler.admit(FAST, number)
        scheduler.push(feed, np.arange(200 + (number % 4) * 1280, dtype=np.float32))
    collected.runner.start()
    wait_until(lambda: scheduler.idle)
    scheduler.stop()
    collected.runner.join(5)
    assert [len(rows) for rows in engine.steps] == [16]
    assert len({len(row.samples) for row in engine.steps[0]}) == 4
    assert [dict(done.calls) for done in collected.batches] == [{"encoder": 1, "decoder": 1}]


def test_a_steps_time_is_told_by_phase():
    scheduler = Scheduler(GEOMETRY, 2, 2, 1)
    engine = FakeEngine(2)
    collected = Collected(engine, scheduler)
    opened = engine.open

    def slow(*arguments):
        time.sleep(0.05)
        opened(*arguments)

    engine.open = slow
    feed = scheduler.admit(FAST, "a")
    scheduler.push(feed, np.zeros(200 + 1280, np.float32))
    collected.runner.start()
    wait_until(lambda: scheduler.idle)
    scheduler.stop()
    collected.runner.join(5)
    first, second = (dict(done.phases) for done in collected.batches)
    assert 0.05 <= first.pop("copying") <= collected.batches[0].seconds
    assert second.pop("copying") < 0.05
    assert first == second == {"features": 0.25, "encoder": 0.25, "decoder": 0.25}


def test_all_results_are_delivered_before_the_scheduler_is_idle():
    scheduler = Scheduler(GEOMETRY, 2, 2, 1)
    seen = []
    runner = Runner(FakeEngine(2), scheduler, lambda done: seen.append(scheduler.idle), pytest.fail)
    scheduler.push(scheduler.admit(FAST, "a"), np.zeros(200, np.float32))
    runner.start()
    wait_until(lambda: scheduler.idle)
    scheduler.stop()
    runner.join(5)
    assert seen == [False]


@pytest.mark.parametrize("where", ["step", "deliver"])
def test_a_failure_is_reported_and_ends_the_thread(where):
    scheduler = Scheduler(GEOMETRY, 2, 2, 1)
    engine = FakeEngine(2)
    collected = Collected(engine, scheduler)
    error = RuntimeError("no device")

    def broken(*_):
        raise error

    if where == "step":
        engine.step = broken
    else:
        collected.runner._deliver = broken
    collected.runner.start()
    scheduler.push(scheduler.admit(FAST, "a"), np.zeros(200, np.float32))
    collected.runner.join(5)
    assert not collected.runner.is_alive()
    assert collected.error is error


def test_many_producers_and_few_slots_lose_nothing():
    """Six threads, three hundred streams of three segments, eight slots, random cuts and some drops."""
    scheduler = Scheduler(GEOMETRY, 8, 6, 3)
    engine = FakeEngine(8)
    collected = Collected(engine, scheduler)
    collected.runner.start()
    dropped, kept, failures = set(), set(), []

    def produce(number):
        rng = random.Random(number)
        streams = {}
        for i in range(50):
            name = number * 50 + i
            streams[name] = [scheduler.admit(rng.choice(MODES), name), [rng.randrange(12_000) for _ in range(3)], 0, 0]
        while streams:
            name = rng.choice(list(streams))
            feed, lengths, segment, sent = streams[name]
            if sent < lengths[segment]:
                stop = min(lengths[segment], sent + rng.randrange(1, 2500))
                first = (name * 4 + segment) * SEGMENT
                scheduler.push(feed, np.arange(first + sent, first + stop, dtype=np.float64))
                streams[name][3] = stop
            elif segment < 2:
                scheduler.close(feed, ending=False)
                streams[name][2:] = [segment + 1, 0]
            elif name % 10 == 7:
                scheduler.drop(feed)
                dropped.add(name)
                del streams[name]
            else:
                scheduler.close(feed, ending=True)
                kept.add((name, *lengths))
                del streams[name]
            if rng.random() < 0.1:
                time.sleep(0.0005)

    def guarded(number):
        try:
            produce(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_until(lambda: scheduler.idle or collected.error)
    scheduler.stop()
    collected.runner.join(5)
    assert (failures, collected.error) == ([], None)
    assert (len(kept), len(dropped)) == (270, 30)
    for name, *lengths in kept:
        for segment, (length, heard) in enumerate(zip(lengths, collected.of(name), strict=True)):
            first = (name * 4 + segment) * SEGMENT
            assert np.array_equal(heard, np.arange(first, first + length))
    assert scheduler.waiting_bytes == 0
    assert scheduler.occupancy().active == scheduler.occupancy().spilled == 0
    assert max(len(rows) for rows in engine.steps) <= 6
