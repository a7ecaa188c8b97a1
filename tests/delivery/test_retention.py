"""Records that expired before a restart could read them again: a gap, and never a second beginning."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.delivery.log import world
from tests.delivery.test_crashes import DAYS, acts, deeds, live_through
from tests.delivery.world import Worker
from wire import Gap, StreamEnd, Utterance


@DAYS
@given(deeds=deeds, plan=st.lists(acts, max_size=60), expired=st.integers(0, 60), again=st.lists(acts, max_size=30))
def test_numbers_and_times_go_on_whatever_has_expired(deeds, plan, expired, again):
    stage = world(deeds)
    live_through(Worker(stage), plan)
    begun = {row.stream: row.first_offset for row in stage.table().live.values()}
    first = min(expired, stage.end)
    live_through(Worker(stage, first=first), again)
    Worker(stage, first=first).finish()

    assert not stage.table().live
    found = stage.finals()
    for name, first_offset in begun.items():
        assert f"{name}/3-{first_offset}" in found
    for outs in found.values():
        events = [event for event, _ in outs]
        assert [event.head.number for event in events] == list(range(len(events)))
        end = events[-1]
        utterances = [event for event in events if isinstance(event, Utterance)]
        words = [word for utterance in utterances for word in utterance.words]
        assert [event for event in events if isinstance(event, StreamEnd)] == [end]
        assert (end.utterances, end.words) == (len(utterances), len(words))
        for earlier, later in pairwise(words):
            assert earlier.end <= later.start
        assert not words or words[-1].end <= end.duration


def test_what_is_missing_is_told_as_a_gap_from_what_was_published():
    stage = world([("s", "start", 100), *[("s", "audio", 3200)] * 20])
    live_through(Worker(stage), ["read"] * 8 + ["step", "arrive"] * 20 + ["commit"])
    (before,) = stage.finals().values()
    told = max(event.end for event, _ in before if isinstance(event, Utterance))
    Worker(stage, first=16).finish()
    after = stage.finals()["s/3-0"][len(before) :]
    gaps = [(event.start, event.end) for event, _ in after if isinstance(event, Gap)]
    assert gaps == [(told, 15 * 200)]
