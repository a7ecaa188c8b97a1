"""Whatever moment a worker dies at, and however often: the finals and rejects are those of a run without a crash."""

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.delivery.log import KINDS, NAMES, world
from tests.delivery.world import Worker, World
from wire import decode_rejected

deeds = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS), st.integers(100, 4000)), min_size=1, max_size=40
)
acts = st.sampled_from(
    [
        *["read"] * 8,
        *["step", "arrive"] * 4,
        *["commit"] * 3,
        *["collect", "capture 0", "capture 1", "capture 2", "save", "save"],
    ]
)
DAYS = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
lives = st.lists(st.lists(acts, max_size=60), max_size=4)


def live_through(worker: Worker, plan: list[str]) -> None:
    for act in plan:
        name, *arguments = act.split()
        getattr(worker, name)(*map(int, arguments))


def undisturbed(of: World) -> World:
    alone = World(of.log, of.idle, of.end)
    worker = Worker(alone)
    while worker.read():
        while worker.step() or worker.arrive():
            pass
    worker.finish()
    return alone


def check(disturbed: World) -> None:
    expected = undisturbed(disturbed)
    assert disturbed.finals() == expected.finals()
    assert disturbed.rejects() == expected.rejects()
    ids = [event.head.id for events in disturbed.finals().values() for event, _ in events]
    assert len(set(ids)) == len(ids)
    table = disturbed.table()
    assert not table.live
    assert (disturbed.committed, table.read) == (disturbed.end, disturbed.end)
    assert table.ended.keys() == expected.table().ended.keys()


@DAYS
@given(deeds=deeds, lives=lives, slots=st.integers(1, 3))
def test_finals_and_rejects_do_not_depend_on_crashes(deeds, lives, slots):
    stage = world(deeds)
    for plan in lives:
        live_through(Worker(stage, slots), plan)
    Worker(stage, slots).finish()
    check(stage)


@DAYS
@given(deeds=deeds, lives=lives, lost=st.data())
def test_lost_checkpoints_cost_time_only(deeds, lives, lost):
    stage = world(deeds)
    for plan in lives:
        live_through(Worker(stage), plan)
        for key in sorted(stage.store):
            if lost.draw(st.booleans()):
                del stage.store[key]
    Worker(stage).finish()
    check(stage)


def test_a_crash_between_any_two_acts_of_a_busy_partition():
    """Every moment of one run, with a checkpoint of each stream on the way."""
    script = [("s", "start", 101), ("t", "audio", 3000), *[("s", "audio", 2000), ("t", "audio", 1700)] * 3]
    script += [("t", "swapped", 900), ("s", "flush", 3), ("s", "long loss", 1500), ("t", "idle", 1), ("t", "bytes", 1)]
    script += [("s", "audio", 2500), ("s", "start", 100), ("s", "audio", 2600), ("s", "end", 101), ("s", "audio", 500)]
    turn = ["read", "step", "arrive", "capture 0", "read", "capture 1", "step", "arrive", "arrive", "save", "commit"]
    plan = turn * 9
    for length in range(len(plan) + 1):
        stage = world(script)
        live_through(Worker(stage), plan[:length])
        Worker(stage).finish()
        check(stage)
    events = list(itertools.chain(*stage.finals().values()))
    assert len(events) > 12
    reasons = [decode_rejected(value).reason for _, _, value in stage.rejects()]
    assert reasons == ["malformed", "after_end"]  # of the audio after the end, one lies in the tail that never came
