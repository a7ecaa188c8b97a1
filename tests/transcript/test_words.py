"""Pieces of a vocabulary to words, with times in frames and the mean confidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.transcript.words import Hypothesis

PIECES = ("▁", "▁hel", "lo", "▁a", "b", ",", "▁wor", "ld", "'s", ".")
ID = {piece: number for number, piece in enumerate(PIECES)}


def hear(*pieces, hypothesis=None):
    """A hypothesis of these pieces, one a frame from frame 10."""
    hypothesis = hypothesis or Hypothesis(PIECES)
    for frame, piece in enumerate(pieces, start=10):
        hypothesis.add(ID[piece], frame, 0.5)
    return hypothesis


@pytest.mark.parametrize(
    ("pieces", "text", "stable"),
    [
        (["▁hel", "lo", "▁wor", "ld"], "hello world", "hello"),
        (["▁hel", "lo", ",", "▁wor", "ld", "."], "hello, world.", "hello,"),
        (["▁", "b", "▁", "lo"], "b lo", "b"),
        (["▁", "▁a", "b"], "ab", ""),
        (["▁a", "▁"], "a", "a"),
        (["▁"], "", ""),
        (["lo", "▁a"], "lo a", "lo"),
        ([",", "▁a", "'s"], ", a's", ","),
        ([], "", ""),
    ],
)
def test_pieces_become_words(pieces, text, stable):
    hypothesis = hear(*pieces)
    assert (hypothesis.text(), hypothesis.stable()) == (text, stable)
    taken = hypothesis.take()
    assert " ".join(word.text for word in taken) == text
    assert (hypothesis.text(), hypothesis.words) == ("", [])


def test_a_word_lasts_from_its_first_piece_to_the_end_of_its_last():
    hypothesis = Hypothesis(PIECES)
    for piece, frame, confidence in [("▁hel", 3, 0.9), ("lo", 5, 0.6), (",", 5, 0.3), ("▁wor", 9, 1.0)]:
        hypothesis.add(ID[piece], frame, confidence)
    hello, world = (word.close(origin=10_000, frame_ms=80) for word in hypothesis.take())
    assert (hello.text, hello.start, hello.end) == ("hello,", 10_240, 10_480)
    assert hello.confidence == pytest.approx(0.6)
    assert (world.text, world.start, world.end, world.confidence) == ("wor", 10_720, 10_800, 1.0)


def test_a_bare_mark_belongs_to_the_word_after_it():
    hypothesis = Hypothesis(PIECES)
    for piece, frame, confidence in [("▁", 3, 0.2), ("b", 4, 0.4), ("▁", 6, 0.2), ("▁a", 7, 0.8)]:
        hypothesis.add(ID[piece], frame, confidence)
    first, second = (word.close(0, 80) for word in hypothesis.take())
    assert (first.text, first.start, first.end, first.confidence) == ("b", 240, 400, pytest.approx(0.3))
    assert (second.text, second.start, second.end, second.confidence) == ("a", 480, 640, pytest.approx(0.5))


def test_a_confidence_that_rounding_took_past_one_is_one():
    hypothesis = Hypothesis(PIECES)
    hypothesis.add(ID["▁a"], 0, 1.0000001)
    assert hypothesis.take()[0].close(0, 80).confidence == 1.0


def test_the_last_word_may_stay_and_grow():
    hypothesis = hear("▁hel", "lo", "▁wor")
    assert [word.text for word in hypothesis.take(keep_last=True)] == ["hello"]
    hear("ld", hypothesis=hypothesis)
    assert hypothesis.text() == "world"
    assert hypothesis.tokens == 2


@given(st.lists(st.sampled_from(PIECES)))
def test_what_is_stable_never_changes(pieces):
    hypothesis, before = Hypothesis(PIECES), ("", "")
    for frame, piece in enumerate(pieces):
        hypothesis.add(ID[piece], frame, 1.0)
        text, stable = hypothesis.text(), hypothesis.stable()
        assert text.startswith(stable)
        assert text.startswith(before[1])
        assert stable.startswith(before[1])
        before = text, stable
    letters = "".join(pieces).replace("▁", "")
    assert hypothesis.text().replace(" ", "") == letters
    assert hypothesis.tokens == len(pieces)
