"""A stream's host state goes through bytes and on, bit for bit; and a stream whose beginning is gone still begins."""

from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream.heard import FIRST, LIMITS, MS, begin, converted, noise, piece
from tests.stream.test_session import disorder
from wire import Audio, End, Flush
from worker.stream.segment import Boundary, Loss, Segment, Source
from worker.stream.session import Session, SessionLimits, Speech


def through_bytes(state):
    return msgpack.unpackb(msgpack.packb(state))


def same(items):
    """Items as values that compare: samples as their bits."""
    return [(i.samples.tobytes(), i.source) if isinstance(i, Speech) else i for i in items]


@st.composite
def lossy(draw):
    """A stream in disorder of which some records never come, and limits that give up soon."""
    rate, _, _, records = draw(disorder())
    kept = [record for record in records if draw(st.integers(0, 9)) > 1]
    fill = draw(st.sampled_from([0, 20, 500]))
    return rate, SessionLimits(draw(st.sampled_from([10, 100, 2000])), fill, 60_000), kept


@settings(max_examples=200, deadline=None)
@given(lossy(), st.data())
def test_a_session_restored_between_any_records_gives_the_same_bits(case, data):
    rate, limits, records = case
    whole = begin(rate, limits=limits).play(*records, End())
    moved = begin(rate, limits=limits)
    for record in [*records, End()]:
        if data.draw(st.booleans()):
            moved.session = Session.restore(through_bytes(moved.session.state()), limits)
        moved.play(record)
    assert same(moved.items) == same(whole.items)
    assert moved.session.state() == whole.session.state()
    assert (moved.session.gap_ms, moved.session.duplicates) == (whole.session.gap_ms, whole.session.duplicates)


@pytest.mark.parametrize("nonce", [None, "a"])
def test_a_restored_session_knows_its_producer_and_its_last_source(nonce):
    session = begin(nonce=nonce).play(piece(noise(1600), 0, 0, 1600)).session
    again = Session.restore(through_bytes(session.state()), LIMITS)
    assert [again.accepts_nonce(n) for n in ("a", None, "b")] == [nonce == "a", True, False]
    assert again.idle() == session.idle()
    assert again.time == session.time == 100


def test_a_session_for_another_rate_is_refused():
    with pytest.raises(ValueError, match="Hz"):
        Session.restore(begin(8000).session.state(), LIMITS, rate_out=8000)


NUMBER = st.integers(0, 2**40)
SOURCE = st.builds(Source, NUMBER, NUMBER)
BOUNDARY = st.builds(
    Boundary, st.sampled_from(["flush", "gap", "end", "idle", "restarted"]), NUMBER, SOURCE, st.text(), NUMBER, NUMBER
)


@given(
    origin=NUMBER,
    losses=st.lists(st.builds(Loss, NUMBER, NUMBER, NUMBER, SOURCE), max_size=4),
    boundary=st.none() | BOUNDARY,
    marks=st.lists(st.tuples(st.integers(1, 5000), SOURCE), max_size=9),
    forgotten=st.integers(0, 20_000),
)
def test_a_segment_comes_back_as_it_was(origin, losses, boundary, marks, forgotten):
    segment, end = Segment(origin), 0
    segment.losses.extend(losses)
    segment.boundary = boundary
    for samples, source in marks:
        end += samples
        segment.mark(end, source)
    segment.forget(forgotten)
    again = Segment.restore(through_bytes(segment.state()))
    assert again == segment
    again.mark(end + 1, FIRST)  # nothing is shared
    again.losses.append(Loss(0, 0, 0, FIRST))
    assert again != segment


@pytest.mark.parametrize("number", [0, 7, 10**12])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_stream_whose_beginning_is_gone_goes_on_with_the_first_audio_that_is_there(rate, number):
    pcm, ms = noise(rate), rate // 1000
    heard = begin(rate)
    heard.session.begin_at(5000 * ms)
    assert heard.session.time == 5000
    far = 5000 * ms + LIMITS.max_gap_ms * ms + 1000 * ms  # further than a gap may be
    heard.play(Audio(number, far, pcm[: 100 * ms].tobytes()))
    gap = heard.boundaries[0]
    assert (gap.reason, gap.time, gap.gap_end) == ("gap", 5000, 66_000)
    assert heard.session.gap_ms == 61_000
    heard.play(Audio(number + 1, far + 100 * ms, pcm[100 * ms :].tobytes()), End())
    assert np.array_equal(heard.samples, converted(pcm, rate))
    assert heard.boundaries[-1].time == 67_000


def test_a_short_piece_that_is_gone_is_silence_and_a_loss():
    pcm = noise(16000)
    heard = begin()
    heard.session.begin_at(1600)
    heard.play(piece(pcm, 5, 3200, 4800), piece(pcm, 6, 4800, 6400))
    assert heard.losses == [(100, 200)]
    assert len(heard.samples) == 4800


def test_after_the_first_audio_order_is_kept_as_ever():
    pcm = noise(16000)
    heard = begin()
    heard.session.begin_at(1600)
    heard.play(piece(pcm, 0, 0, 1600))  # before what is expected: still waiting for the first
    heard.session = Session.restore(through_bytes(heard.session.state()), LIMITS)
    heard.play(piece(pcm, 9, 3200, 4800), piece(pcm, 11, 6400, 8000), piece(pcm, 10, 4800, 6400))
    assert heard.losses == [(100, 200)]
    assert np.array_equal(heard.samples[1600:], converted(pcm[3200:8000], 16000))
    assert heard.play(Flush("f")).boundaries[0].time == 8000 // MS
    assert replace(heard.boundaries[0], source=FIRST) == Boundary("flush", 500, FIRST, "f", 0, 100)


def test_a_restored_session_knows_the_flushes_that_it_answered():
    session = begin().play(Flush("f", position=3), Flush("g")).session
    again = Session.restore(through_bytes(session.state()), LIMITS)
    assert again.flush(Flush("f", position=3), FIRST) == again.flush(Flush("g"), FIRST) == []
    assert again.flush(Flush("f"), FIRST) != []
