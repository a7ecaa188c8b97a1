"""Which record brought a sample, which completed a run of samples, and what may be forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.stream.segment import Boundary, Segment, Source

MARKS = st.lists(st.integers(1, 50), min_size=1, max_size=20)


def marked(lengths):
    """A segment whose record number i brought `lengths[i]` samples."""
    segment, end = Segment(origin=0), 0
    for number, length in enumerate(lengths):
        end += length
        segment.mark(end, Source(number, 1000 + number))
    return segment


def owners(lengths):
    """The record of each sample."""
    return [number for number, length in enumerate(lengths) for _ in range(length)]


@given(MARKS)
def test_each_sample_is_traced_to_its_record(lengths):
    segment, owner = marked(lengths), owners(lengths)
    for sample, number in enumerate(owner):
        assert segment.holding(sample).offset == number
        assert segment.completing(sample + 1).offset == number
        assert segment.oldest_after(sample).offset == number
    assert segment.oldest_after(len(owner)) is None


@given(MARKS, st.integers(0, 100))
def test_samples_beyond_the_last_are_given_to_the_last_record(lengths, beyond):
    segment, count = marked(lengths), sum(lengths)
    assert (
        segment.holding(count + beyond)
        == segment.completing(count + beyond)
        == Source(len(lengths) - 1, 999 + len(lengths))
    )


@given(MARKS, st.lists(st.integers(0, 1200), max_size=5))
def test_what_lies_behind_the_forgotten_is_still_known(lengths, forgotten):
    segment, whole = marked(lengths), marked(lengths)
    for sample in forgotten:
        segment.forget(sample)
    for sample in range(min(max(forgotten, default=0), sum(lengths)), sum(lengths)):
        assert segment.holding(sample) == whole.holding(sample)
        assert segment.completing(sample + 1) == whole.completing(sample + 1)
        assert segment.oldest_after(sample) == whole.oldest_after(sample)
    assert segment.completing(10**9) == whole.completing(10**9)


def test_memory_is_given_back():
    segment = marked([100] * 1000)
    segment.forget(95_000)
    assert len(segment._ends) == len(segment._sources) == 50
    segment.forget(10**9)
    assert len(segment._ends) == 1


def test_nothing_is_after_the_audio_of_an_empty_segment():
    segment = Segment(origin=0)
    segment.forget(100)
    assert segment.oldest_after(0) is None


@pytest.mark.parametrize("reason", ["flush", "gap", "end", "idle", "restarted"])
def test_stream_time_goes_on_where_the_boundary_says(reason):
    boundary = Boundary(reason, 500, Source(1, 1), gap_end=900)
    assert boundary.resumes == (900 if reason == "gap" else 500)
    assert boundary.ends_stream == (reason in ("end", "idle", "restarted"))
