"""When a stream's audio may be taken, and how much of it is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.batching.fake import GEOMETRY
from worker.batching.feed import Feed
from worker.engine.interface import Geometry, Mode

END = [GEOMETRY.chunk_end(1, chunk) for chunk in range(10)]  # 1480, 4040, ...


def feed(look_ahead=1, geometry=GEOMETRY):
    return Feed(Mode(look_ahead, "rnnt"), geometry, None, began=0.0)


def audio(count, first=0):
    return np.arange(first, first + count, dtype=np.float32)


def test_the_chunks_of_the_geometry():
    assert END[:2] == [1480, 4040]
    assert Geometry(16000, 160, 200, 8, {1: 3}).chunk_end(1, 0) == 1480 + 3 * 1280


def test_nothing_is_due_before_the_chunk_is_whole_and_then_since_its_last_record():
    waiting = feed()
    assert waiting.due() is None
    waiting.push(audio(1000), 1.0)
    waiting.push(audio(479), 2.0)
    assert waiting.due() is None
    waiting.push(audio(1), 3.0)
    waiting.push(audio(100), 4.0)
    assert waiting.due() == 3.0
    samples, last = waiting.take(1)
    assert (len(samples), last, waiting.waiting, waiting.due()) == (1480, False, 100, None)


def test_a_stream_that_fell_behind_gives_several_chunks_up_to_the_limit():
    waiting = feed()
    waiting.push(audio(END[4] + 10), 1.0)
    samples, last = waiting.take(3)
    assert np.array_equal(samples, audio(END[2]))
    assert waiting.due() == 1.0
    samples, last = waiting.take(3)
    assert np.array_equal(samples, audio(END[4] - END[2], END[2]))
    assert (last, waiting.waiting, waiting.due()) == (False, 10, None)


@pytest.mark.parametrize(
    ("received", "limit", "taken"),
    [
        (10, 8, [(10, True)]),
        (END[0], 8, [(END[0], True)]),
        (END[0] + 1, 8, [(END[0] + 1, True)]),
        (END[0], 1, [(END[0], True)]),
        # the rest counts as a chunk
        (END[0] + 1, 1, [(END[0], False), (1, True)]),
        (END[2] + 5, 2, [(END[1], False), (END[2] + 5 - END[1], True)]),
    ],
)
def test_a_closed_segment_gives_its_rest_with_its_last_chunk(received, limit, taken):
    waiting = feed()
    waiting.push(audio(received), 1.0)
    waiting.close(2.0, ending=True)
    found = []
    while waiting.due() is not None:
        samples, last = waiting.take(limit)
        found.append((len(samples), last))
    assert found == taken
    assert (waiting.finished, waiting.waiting) == (True, 0)


def test_a_segment_that_closes_after_its_last_chunk_was_taken_gives_an_empty_last_step():
    waiting = feed()
    waiting.push(audio(END[0]), 1.0)
    assert waiting.take(8)[1] is False
    assert not waiting.finished
    waiting.close(2.0, ending=True)
    assert (waiting.due(), waiting.silent) == (2.0, False)
    samples, last = waiting.take(8)
    assert (len(samples), last, waiting.finished) == (0, True, True)


def test_a_segment_without_a_sample_is_silent():
    waiting = feed()
    waiting.close(2.0, ending=False)
    assert (waiting.silent, waiting.due()) == (True, 2.0)
    assert waiting.take(8)[1] is True
    assert (waiting.silent, waiting.due(), waiting.finished) == (False, None, False)


def test_two_segments_are_never_mixed():
    waiting = feed()
    waiting.push(audio(2000), 1.0)
    waiting.close(2.0, ending=False)
    waiting.push(audio(END[0], 5000), 3.0)
    assert waiting.due() == 1.0
    samples, last = waiting.take(8)
    assert np.array_equal(samples, audio(2000))
    assert last
    assert waiting.due() == 3.0
    samples, last = waiting.take(8)
    assert np.array_equal(samples, audio(END[0], 5000))
    assert not last


@given(
    st.lists(st.one_of(st.integers(1, 4000), st.just("close")), max_size=30),
    st.sampled_from([(0, {0: 0}), (1, {1: 0}), (1, {1: 3}), (6, {6: 0})]),
    st.data(),
)
def test_all_audio_comes_out_once_in_order_and_steps_end_at_chunks(actions, mode, data):
    look_ahead, recompute = mode
    geometry = Geometry(16000, 160, 200, 8, recompute)
    waiting, sent, got, current = feed(look_ahead, geometry), [0], [], 0

    def take():
        nonlocal current
        limit = data.draw(st.integers(1, 5))
        before = current
        samples, last = waiting.take(limit)
        assert np.array_equal(samples, audio(len(samples), before))
        current += len(samples)
        ends = [geometry.chunk_end(look_ahead, chunk) for chunk in range(100)]
        assert last or current in ends
        assert sum(before < end <= current for end in ends) <= limit
        if last:
            got.append(current)
            current = 0

    for action in [*actions, "close"]:
        if action == "close":
            waiting.close(1.0, ending=False)
            sent.append(0)
        else:
            waiting.push(audio(action, sent[-1]), 1.0)
            sent[-1] += action
        if waiting.due() is not None and data.draw(st.booleans()):
            take()
    while waiting.due() is not None:
        take()
    assert got == sent[:-1]
    assert waiting.waiting == 0
