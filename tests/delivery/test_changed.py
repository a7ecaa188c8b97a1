"""Restarts after which something is not as it was: other settings, a checkpoint that does not fit, an older log."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.delivery.log import world
from tests.delivery.test_crashes import DAYS, acts, check, deeds, live_through
from tests.delivery.world import FINGERPRINT, STREAM, OutOfRange, Worker
from wire import Gap, StreamEnd
from worker.live import try_out
from worker.state.checkpoint import decode

PLAN = st.lists(acts, max_size=40)
CHANGED = [
    STREAM.model_copy(update=change)
    for change in (
        {"reorder_ms": 3000},
        {"reorder_ms": 50},
        {"gap_fill_ms": 5000},
        {"gap_fill_ms": 0},
        {"max_gap_ms": 20},
        {"endpoint_ms": 1000, "max_utterance_ms": 200},
    )
]


@DAYS
@given(
    deeds=deeds, plan=st.lists(acts, max_size=60), changed=st.sampled_from(CHANGED), again=st.lists(acts, max_size=40)
)
def test_a_stream_keeps_the_settings_that_it_began_with(deeds, plan, changed, again):
    """All records are read by the first worker, so that every stream begins under its settings."""
    stage = world(deeds)
    first = Worker(stage)
    live_through(first, plan)
    while first.read():
        pass
    for _ in range(2):  # the first may write what was collected long before
        first.commit()
    live_through(Worker(stage, stream=changed), again)
    Worker(stage, stream=changed).finish()
    check(stage)


def captured():
    """A live stream's row and checkpoint, and the worker that wrote them."""
    stage = world([("s", "start", 101), *[("s", "audio", 3200)] * 4, ("s", "swapped", 1000)])
    worker = Worker(stage)
    live_through(worker, ["read"] * 5 + ["step", "arrive"] * 6 + ["capture 0", "step", "arrive", "save", "commit"])
    (row,) = stage.table().live.values()
    return worker, row, decode(stage.store[row.checkpoint.key], FINGERPRINT)


@pytest.mark.parametrize("part", ["session", "transcriber", "segments", "heard", "received"])
def test_a_checkpoint_that_lacks_a_part_is_found_out_before_anything_relies_on_it(part):
    worker, row, checkpoint = captured()
    try_out(row, checkpoint, worker._deployment)
    lacking = {name: value for name, value in checkpoint.host.items() if name != part}
    with pytest.raises(KeyError):
        try_out(row, replace(checkpoint, host=lacking), worker._deployment)


def test_a_checkpoint_of_another_mode_is_found_out_before_anything_relies_on_it():
    worker, row, checkpoint = captured()
    options = replace(row.start.options, look_ahead=1 if row.start.options.look_ahead == 0 else 0)
    with pytest.raises(ValueError, match="not of"):
        try_out(replace(row, start=replace(row.start, options=options)), checkpoint, worker._deployment)


def test_trying_a_checkpoint_out_leaves_no_stream_behind():
    worker, row, checkpoint = captured()
    before = worker.scheduler.occupancy()
    try_out(row, checkpoint, worker._deployment)
    assert worker.scheduler.occupancy() == before


@DAYS
@given(deeds=deeds, plan=st.lists(acts, max_size=60), expired=st.integers(1, 60), again=st.lists(acts, max_size=30))
def test_what_expires_during_a_replay_is_a_gap_in_each_stream(deeds, plan, expired, again):
    """As the reader does it: a partition that is still replaying begins again."""
    stage = world(deeds)
    live_through(Worker(stage), plan)
    begun = {f"{row.stream}/3-{row.first_offset}" for row in stage.table().live.values()}
    heir, first = Worker(stage), min(expired, stage.end)
    log, stage.log = stage.log, {offset: record for offset, record in stage.log.items() if offset >= first}
    try:
        live_through(heir, again)
    except OutOfRange:
        assert heir.partition.next_offset < first
        if not heir.partition.replaying:
            return  # the gap shows by the positions of what comes next; not what is tested here
    Worker(stage, first=first).finish()
    stage.log = log

    assert not stage.table().live
    found = stage.finals()
    assert begun <= found.keys()
    for outs in found.values():
        events = [event for event, _ in outs]
        assert [event.head.number for event in events] == list(range(len(events)))
        assert [event for event in events if isinstance(event, StreamEnd)] == events[-1:]


def test_a_stream_that_begins_in_the_hole_has_its_gap_and_its_end():
    script = [("s", "start", 101), *[("s", "audio", 3200)] * 7, ("t", "start", 101), *[("t", "audio", 3200)] * 12]
    stage = world(script)
    live_through(Worker(stage), ["read"] * 12 + ["step", "arrive"] * 20 + ["commit"])
    heir = Worker(stage)
    live_through(heir, ["read"] * 3)
    assert heir.partition.replaying
    Worker(stage, first=14).finish()
    events = [event for event, _ in stage.finals()["t/3-8"]]
    assert any(isinstance(event, Gap) for event in events)
    assert isinstance(events[-1], StreamEnd)
    assert not stage.table().live
