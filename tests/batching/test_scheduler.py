"""Who steps together, and in which slots."""

import threading
import time

import numpy as np
import pytest

from tests.batching.fake import GEOMETRY, MODES, FakeEngine
from worker.batching.runner import Runner
from worker.batching.scheduler import Batch, Scheduler

FAST, SLOW, CTC = MODES
CHUNK = GEOMETRY.chunk_end(0, 0)  # 200
NEXT = GEOMETRY.chunk_samples(0)  # 1280


def zeros(count=CHUNK):
    return np.zeros(count, np.float32)


def scheduler(slots=4, max_batch=8, max_frames=4):
    return Scheduler(GEOMETRY, slots, max_batch, max_frames)


class Steps:
    """Takes batches as the runner does, on this thread."""

    def __init__(self, scheduling, slots=4):
        self.scheduling = scheduling
        self.engine = FakeEngine(slots)
        self.runner = Runner(self.engine, scheduling, lambda done: None, lambda error: None)

    def __call__(self):
        """The owners of one batch, in order; None if nothing is ready."""
        if self.scheduling.occupancy().ready == 0:
            return None
        batch = self.scheduling.take()
        self.runner._step(batch)
        self.scheduling.done(batch)
        return [work.feed.owner for work in batch.work]


def test_the_stream_whose_chunk_came_first_steps_first():
    scheduling = scheduler(max_batch=2)
    step = Steps(scheduling)
    feeds = {name: scheduling.admit(FAST, name) for name in "abc"}
    scheduling.push(feeds["a"], zeros(CHUNK - 1))
    for name in "cba":
        scheduling.push(feeds[name], zeros())
    assert [step(), step(), step()] == [["c", "b"], ["a"], None]


def test_a_batch_has_one_mode_that_of_the_stream_that_has_waited_longest():
    scheduling = scheduler()
    step = Steps(scheduling)
    for name, mode in [("a", CTC), ("b", FAST), ("c", CTC), ("d", SLOW)]:
        scheduling.push(scheduling.admit(mode, name), zeros(2000))
    assert [step(), step(), step(), step()] == [["a", "c"], ["b"], ["d"], None]


def test_no_stream_is_taken_twice_nor_while_it_is_under_way():
    scheduling = scheduler(max_frames=1)
    feed = scheduling.admit(FAST, "a")
    for _ in range(3):
        scheduling.push(feed, zeros(NEXT))
    first = scheduling.take()
    assert [work.feed for work in first.work] == [feed]
    scheduling.push(feed, zeros(NEXT))
    assert scheduling.occupancy().ready == 0
    scheduling.done(first)
    assert scheduling.occupancy().ready == 1


def test_a_batch_is_never_larger_than_the_cap_or_the_slots():
    for slots, max_batch, expected in [(4, 3, 3), (2, 8, 2)]:
        scheduling = scheduler(slots, max_batch)
        for number in range(6):
            scheduling.push(scheduling.admit(FAST, number), zeros())
        assert len(scheduling.take().work) == expected


def test_the_stream_idle_for_longest_gives_up_its_slot_and_comes_back():
    scheduling = scheduler(slots=2)
    step = Steps(scheduling, 2)
    a, b, c = (scheduling.admit(FAST, name) for name in "abc")
    for feed in (a, b):
        scheduling.push(feed, zeros())
    step()
    scheduling.push(a, zeros(NEXT))
    step()  # now b is idle for longer
    scheduling.push(c, zeros())
    step()
    assert (b.slot, b.saved is not None, scheduling.occupancy().spilled) == (None, True, 1)
    assert (a.slot, c.slot) == (0, 1)
    scheduling.push(b, zeros(NEXT))
    assert step() == ["b"]  # the engine would refuse b's second chunk in a fresh slot
    assert (a.slot, b.slot, b.saved) == (None, 0, None)


def test_a_stream_takes_its_slot_back_from_one_that_began_later_and_has_more_to_hear():
    scheduling = scheduler(slots=2, max_batch=1, max_frames=1)
    step = Steps(scheduling, 2)
    first, second, late = (scheduling.admit(FAST, name) for name in ("first", "second", "late"))
    for feed in (first, second):
        scheduling.push(feed, zeros())
        step()
    scheduling.push(late, zeros(CHUNK + 9 * NEXT))
    scheduling.push(second, zeros(9 * NEXT))
    assert step() == ["late"]  # the first has nothing to do, and gives up its slot
    scheduling.push(first, zeros(NEXT))
    assert scheduling.occupancy().waiting == 1
    assert scheduling.starving() == []  # it gets its slot with the next step
    step()
    assert (first.slot is None, late.slot, late.saved is not None) == (False, None, True)
    assert scheduling.starving() == [late]
    heard = [step() for _ in range(8 + 1 + 9)]
    assert [heard.count([name]) for name in ("first", "second", "late")] == [1, 8, 9]
    assert not scheduling.occupancy().ready


def test_those_that_began_last_are_named_first_as_starving_and_one_a_vacant_slot_is_not():
    scheduling = scheduler(slots=1, max_batch=1, max_frames=1)
    step = Steps(scheduling, 1)
    feeds = {name: scheduling.admit(FAST, name) for name in "abc"}
    for name in "abc":
        scheduling.push(feeds[name], zeros(CHUNK + NEXT))
    assert [feed.owner for feed in scheduling.starving()] == ["c", "b"]
    assert step() == ["a"]
    assert [feed.owner for feed in scheduling.starving()] == ["c", "b"]
    assert step() == ["a"]  # and has nothing left
    assert [feed.owner for feed in scheduling.starving()] == ["c"]


def test_a_mode_without_slots_does_not_hold_up_another():
    scheduling = scheduler(slots=1)
    step = Steps(scheduling, 1)
    resident = scheduling.admit(FAST, "resident")
    scheduling.push(resident, zeros())
    step()
    newcomer = scheduling.admit(SLOW, "newcomer")
    scheduling.push(newcomer, zeros(2000))
    time.sleep(0.001)
    scheduling.push(resident, zeros(NEXT))
    # the newcomer waits longest, but the only slot belongs to a stream that is ready too
    batch = scheduling.take()
    assert [work.feed.owner for work in batch.work] == ["resident"]
    assert scheduling.occupancy().waiting == 1
    scheduling.done(batch)
    assert scheduling.occupancy().waiting == 0  # it may have the slot now
    assert step() == ["newcomer"]
    assert (scheduling.occupancy().waiting, scheduling.occupancy().spilled) == (0, 1)


def test_a_stream_that_starves_does_not_keep_another_mode_from_its_slots():
    scheduling = scheduler(slots=2, max_batch=2, max_frames=1)
    step = Steps(scheduling, 2)
    one, other = scheduling.admit(FAST, "one"), scheduling.admit(SLOW, "other")
    for feed in (one, other):
        scheduling.push(feed, zeros(20 * NEXT))
    while step():
        pass  # both have their slots
    for feed in (one, other):
        scheduling.push(feed, zeros(20 * NEXT))
    starving = scheduling.admit(FAST, "starving")
    scheduling.push(starving, zeros(20 * NEXT))
    heard = []
    for _ in range(80):
        for feed in (one, other):
            scheduling.push(feed, zeros(20 * NEXT))
        heard.append(step())
    # the starving one waits longest before long, in the mode of the first, which always has something new
    assert heard[40:].count(["other"]) >= 5
    assert starving.slot is None


def test_no_more_streams_take_slots_back_than_step_at_once():
    scheduling = scheduler(slots=3, max_batch=2, max_frames=1)
    step = Steps(scheduling, 3)
    old = [scheduling.admit(FAST, f"old-{n}") for n in range(3)]
    for feed in old:
        scheduling.push(feed, zeros())
    while step():
        pass
    for name in "abc":
        scheduling.push(scheduling.admit(FAST, name), zeros(CHUNK + 9 * NEXT))
    step()
    step()  # all three have slots
    for feed in old:
        scheduling.push(feed, zeros(NEXT))
    batch = scheduling.take()
    assert [feed.owner for feed, _ in batch.admit] == ["old-0", "old-1"]


def test_a_stream_that_is_dropped_waits_no_longer():
    scheduling = scheduler(slots=1)
    resident, newcomer = scheduling.admit(FAST, "resident"), scheduling.admit(FAST, "newcomer")
    for feed in (resident, newcomer):
        scheduling.push(feed, zeros())
    scheduling.take()
    found = scheduling.occupancy()
    assert (found.admitted, found.active, found.waiting) == (2, 1, 1)
    assert scheduling.waiting([resident, newcomer]) == scheduling.waiting([newcomer]) == len(zeros())
    scheduling.drop(newcomer)
    found = scheduling.occupancy()
    assert (found.admitted, found.active, found.waiting) == (1, 1, 0)


def test_an_empty_segment_needs_no_slot_and_no_engine():
    scheduling = scheduler(slots=1)
    resident, empty = scheduling.admit(FAST, "resident"), scheduling.admit(FAST, "empty")
    scheduling.push(resident, zeros())
    scheduling.close(empty, ending=True)
    first, second = scheduling.take(), scheduling.take()
    assert [(work.feed, work.row is None, work.last) for work in first.work] == [(resident, False, False)]
    assert [(work.feed, work.row is None, work.last) for work in second.work] == [(empty, True, True)]


def test_an_empty_segment_of_a_stream_with_a_slot_is_not_stepped():
    scheduling = scheduler()
    step = Steps(scheduling)
    feed = scheduling.admit(FAST, "a")
    scheduling.push(feed, zeros())
    scheduling.close(feed, ending=False)
    step()
    scheduling.close(feed, ending=True)
    assert step() == ["a"]
    assert len(step.engine.steps) == 1
    assert scheduling.occupancy().active == 0


STATES = ["new", "waiting", "ready", "resident", "spilled", "under way", "finished", "twice"]


@pytest.mark.parametrize("state", STATES)
def test_a_dropped_stream_leaves_nothing_behind(state):
    scheduling = scheduler(slots=1)
    step = Steps(scheduling, 1)
    feed = scheduling.admit(FAST, "a")
    batch = None
    if state in ("waiting", "twice"):
        scheduling.push(feed, zeros(CHUNK - 1))
    elif state != "new":
        scheduling.push(feed, zeros())
    if state == "under way":
        batch = scheduling.take()
        scheduling.push(feed, zeros(5000))
    elif state in ("resident", "spilled"):
        step()
        scheduling.push(feed, zeros(10))
    if state == "spilled":
        scheduling.push(scheduling.admit(FAST, "b"), zeros())
        step()
    if state == "finished":
        scheduling.close(feed, ending=True)
        step()
    scheduling.drop(feed)
    if state == "twice":
        scheduling.drop(feed)
    if batch is not None:
        scheduling.done(batch)
    scheduling.push(feed, zeros())
    scheduling.close(feed, ending=True)
    assert scheduling.waiting_bytes == 0
    assert feed not in scheduling._feeds
    assert feed.saved is None
    newcomer = scheduling.admit(FAST, "new")
    scheduling.push(newcomer, zeros())
    assert step() == ["new"]
    assert scheduling.idle
    assert scheduling.occupancy().active == 1


def test_a_stream_dropped_while_it_is_copied_out_is_not_kept():
    scheduling = scheduler(slots=1)
    step = Steps(scheduling, 1)
    old, new = scheduling.admit(FAST, "old"), scheduling.admit(FAST, "new")
    scheduling.push(old, zeros())
    step()
    scheduling.push(new, zeros())
    batch = scheduling.take()
    scheduling.drop(old)
    step.runner._step(batch)
    scheduling.done(batch)
    assert scheduling.occupancy().spilled == 0
    assert (scheduling.occupancy().active, new.slot) == (1, 0)


def test_take_waits_for_work_and_returns_none_once_stopped():
    scheduling = scheduler()
    taken: list[Batch | None] = []
    came = threading.Event()

    def work():
        while (batch := scheduling.take()) is not None:
            taken.append(batch)
            came.set()
        taken.append(None)

    thread = threading.Thread(target=work)
    thread.start()
    feed = scheduling.admit(FAST, "a")
    scheduling.push(feed, zeros(CHUNK - 1))
    assert not came.wait(0.05)
    scheduling.push(feed, zeros(1))
    assert came.wait(5)
    scheduling.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert len(taken) == 2
    assert taken[1] is None
    assert scheduling.take() is None


def test_occupancy_counts_samples_and_streams():
    scheduling = scheduler()
    a, b = scheduling.admit(FAST, "a"), scheduling.admit(FAST, "b")
    scheduling.push(a, zeros(150))
    scheduling.push(b, zeros(300))
    found = scheduling.occupancy()
    assert (found.samples, found.ready, found.active, scheduling.idle) == (450, 1, 0, False)
    batch = scheduling.take()
    assert (scheduling.occupancy().samples, scheduling.idle) == (250, False)
    scheduling.done(batch)
    found = scheduling.occupancy()
    assert (found.active, found.ready, scheduling.idle) == (1, 0, True)
