"""The verdict sees what it is there for: events that are lost, doubled, cut, renumbered, or a little different."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.chaos.verdict import Verdict, compare
from tests.integration.support import Out, Outputs
from wire import Final, Gap, Head, Marker, Rejected, StreamEnd, Utterance, Word


def head(number: int) -> Head:
    return Head(f"call/0-7/{number}", "call", number, "model", (7, 20 + number))


def said(number: int, start: int, text: str = "one two") -> Utterance:
    words = tuple(Word(word, start + at * 500, start + at * 500 + 300, 0.9) for at, word in enumerate(text.split()))
    return Utterance(head(number), text, words, words[0].start, words[-1].end, "silence")


STORY: list[Final] = [
    said(0, 0),
    Marker(head(1), "flush", 900),
    said(2, 1000),
    Gap(head(3), 2000, 3500),
    said(4, 4000),
    StreamEnd(head(5), "end", 5000, 3, 6, 1500),
]


def outputs(events: list[Final], rejected: tuple[int, ...] = (9,)) -> Outputs:
    finals = [Out(event, b"call", 0, {}, 0) for event in events]
    rejects = [
        Out(Rejected("malformed", "", b"x", 1, b""), b"call", 0, {"offset": str(offset)}, 0) for offset in rejected
    ]
    return cast(Outputs, SimpleNamespace(finals=finals, rejected=rejects))


def found(events: list[Final], **others: Any) -> tuple[int, int, int]:
    verdict = compare(outputs(events, **others), outputs(STORY))
    assert verdict.good == (verdict.first is None)
    return verdict.lost, verdict.doubled, verdict.differing


def less_sure(event: Utterance, by: float) -> Utterance:
    return replace(event, words=tuple(replace(word, confidence=word.confidence - by) for word in event.words))


def test_the_same_is_good_and_counted() -> None:
    verdict = compare(outputs(STORY), outputs(STORY))
    assert verdict.good
    assert verdict.compared == len(STORY) + 1


def test_nothing_is_not_good() -> None:
    assert not compare(outputs([], ()), outputs([], ())).good
    assert not Verdict().good


@pytest.mark.parametrize("index", range(len(STORY)))
def test_a_missing_event_is_lost(index: int) -> None:
    assert found([*STORY[:index], *STORY[index + 1 :]]) == (1, 0, 0)


@pytest.mark.parametrize("index", range(len(STORY)))
def test_an_event_told_again_is_doubled(index: int) -> None:
    assert found([*STORY[: index + 1], *STORY[index:]]) == (0, 1, 0)


def test_an_event_told_again_under_another_number_is_doubled() -> None:
    again = [replace(event, head=head(event.head.number + 1)) for event in STORY[2:]]
    lost, doubled, differing = found([*STORY[:3], *again])
    assert (lost, doubled) == (0, 1)
    assert differing > 0


def test_a_word_that_takes_no_time_is_not_doubled_by_the_one_that_begins_there() -> None:
    """A flush can cut a word to nothing; the next utterance may begin at that moment."""
    cut = replace(said(0, 0, "one"), words=(Word("one", 0, 0, 0.9),), end=0, reason="flush")
    story: list[Final] = [cut, *STORY[1:2], said(2, 0), *STORY[3:]]
    assert compare(outputs(story), outputs(story)).good
    twice = compare(outputs([story[0], *story]), outputs(story))
    again = replace(story[0], head=head(1))
    renumbered = compare(outputs([story[0], again, *story[2:]]), outputs(story))
    assert (twice.lost, twice.doubled) == (0, 1)
    assert (renumbered.lost, renumbered.doubled) == (1, 1)  # the marker is gone


def test_a_word_fewer_at_the_end_is_lost_and_one_within_differs() -> None:
    long = said(4, 4000, "one two three")
    theirs = outputs([*STORY[:4], long, STORY[5]])
    short = compare(outputs([*STORY[:4], said(4, 4000), STORY[5]]), theirs)
    assert (short.lost, short.doubled, short.differing) == (1, 0, 0)
    within = replace(long, text="one three", words=(long.words[0], long.words[2]))
    holed = compare(outputs([*STORY[:4], within, STORY[5]]), theirs)
    assert (holed.lost, holed.doubled, holed.differing) == (0, 0, 1)


@pytest.mark.parametrize(
    "other",
    [
        replace(said(2, 1000), text="one too"),
        replace(said(2, 1000), reason="end"),
        replace(said(2, 1000), head=replace(head(2), offsets=(8, 22))),
        less_sure(said(2, 1000), 0.02),
    ],
)
def test_what_is_not_the_same_differs(other: Utterance) -> None:
    assert found([*STORY[:2], other, *STORY[3:]]) == (0, 0, 1)


def test_a_confidence_may_differ_in_its_last_digits() -> None:
    assert found([*STORY[:2], less_sure(said(2, 1000), 0.009), *STORY[3:]]) == (0, 0, 0)


def test_order_matters() -> None:
    assert found([STORY[2], *STORY[:2], *STORY[3:]]) == (0, 0, 1)


def test_rejected_records_count_too() -> None:
    assert found(STORY, rejected=()) == (1, 0, 0)
    assert found(STORY, rejected=(9, 9)) == (0, 1, 0)
    assert found(STORY, rejected=(9, 10)) == (0, 0, 1)


def test_the_first_difference_is_shown_with_what_is_around_it() -> None:
    verdict = compare(outputs(STORY[:2] + STORY[3:]), outputs(STORY))
    assert verdict.where == (0, (7, 22))
    assert verdict.first is not None
    assert verdict.first.startswith("lost: Utterance")
    assert "disturbed:" in verdict.first
    assert str(STORY[3]) in verdict.first
