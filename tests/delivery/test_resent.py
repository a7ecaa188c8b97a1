"""A producer that does not know what arrived sends its last records again: the finals are as if sent once."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.delivery.log import NAMES, world
from tests.delivery.test_crashes import undisturbed
from tests.delivery.world import World
from wire import Final, decode_final

DEEDS = st.tuples(
    st.sampled_from(NAMES[:2]),
    st.sampled_from([*["audio"] * 4, "loss", "long loss", "swapped", "flush", "end", "resent", "resent"]),
    st.integers(100, 4000),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(DEEDS, max_size=30))
def test_records_sent_again_change_nothing(deeds: list[tuple[str, str, int]]) -> None:
    begun = [(name, "start", 100) for name in NAMES[:2]]
    # after its end a producer only says again what it said
    ended: set[str] = set()
    said = []
    for name, kind, samples in begun + deeds:
        if name not in ended or kind == "resent":
            said.append((name, kind, samples))
        if kind == "end":
            ended.add(name)
    again, once = (undisturbed(quiet(d)) for d in (said, [deed for deed in said if deed[1] != "resent"]))
    assert told(again) == told(once)
    assert again.rejects() == once.rejects() == []


def quiet(deeds: list[tuple[str, str, int]]) -> World:
    """The topic after these deeds; whoever has not ended then is idle."""
    stage = world(deeds)
    end = next(offset for offset in stage.idle)
    return World({offset: record for offset, record in stage.log.items() if offset < end}, stage.idle, end)


def told(stage: World) -> dict[str, list[Final]]:
    """Each name's events, without the offsets, which must differ."""
    found: dict[str, list[Final]] = {}
    for events in stage.finals().values():
        for event, _ in events:
            found.setdefault(event.head.stream, []).append(
                replace(event, head=replace(event.head, id="", offsets=(0, 0)))
            )
    return found


def test_the_comparison_sees_a_flush_answered_twice() -> None:
    one = undisturbed(quiet([("s", "start", 100), ("s", "audio", 3000), ("s", "flush", 2)]))
    two = undisturbed(quiet([("s", "start", 100), ("s", "audio", 3000), ("s", "flush", 2), ("s", "flush", 4)]))
    assert told(one) != told(two)
    assert decode_final(one.letters[-1].value)
