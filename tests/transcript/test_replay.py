"""A transcriber that goes on from what was published: nothing twice, nothing lost, no hole in the numbers."""

from dataclasses import replace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transcript.script import (
    FRAME,
    GEOMETRY,
    ID,
    PIECES,
    REGULAR,
    Script,
    events,
    partials,
    source,
    tell,
    transcriber,
)
from tests.transcript.test_transcriber import scripts
from wire.events import Gap, Marker, StreamEnd, Utterance
from worker.engine.interface import Tokens
from worker.stream.segment import Boundary, Segment
from worker.transcript.transcriber import Progress

LIMITS = st.sampled_from([(800, 30_000), (80, 240), (160, 1000), (1, 1)])


def counted(told):
    """The progress after these events, counted here."""
    utterances = [event for event in told if isinstance(event, Utterance)]
    return Progress(
        number=len(told),
        time=utterances[-1].end if utterances else 0,
        markers=sum(isinstance(event, Marker) for event in told),
        gaps=sum(isinstance(event, Gap) for event in told),
        utterances=len(utterances),
        words=sum(len(event.words) for event in utterances),
    )


def play(script, listener, geometry=GEOMETRY, cuts=lambda frames: range(2, frames, 2)):
    return [step for segment in script for step in tell(listener, segment, cuts(segment.frames), geometry=geometry)]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), limits=LIMITS, geometry=st.sampled_from([GEOMETRY, REGULAR]))
def test_a_replay_after_any_event_tells_exactly_the_rest(data, limits, geometry):
    script = data.draw(scripts())
    whole = events(play(script, transcriber(*limits, geometry=geometry), geometry))
    told = data.draw(st.integers(0, len(whole) - 1))  # a stream whose end was published is not replayed
    listener = transcriber(*limits, geometry=geometry, published=counted(whole[:told]))

    def any_cuts(frames):
        return data.draw(st.sets(st.sampled_from(range(2, frames, 2)))) if frames > 2 else set()

    steps = play(script, listener, geometry, any_cuts)
    assert events(steps) == whole[told:]
    assert listener.progress == counted(whole)
    _nothing_published_in_partials(steps, whole[told:])


def _nothing_published_in_partials(steps, rest):
    """Whoever reads a partial gets the utterance of its id."""
    ids = {event.head.id for event in rest if isinstance(event, Utterance)}
    assert {partial.head.id for partial in partials(steps)} <= ids


@settings(max_examples=300, deadline=None)
@given(data=st.data(), limits=LIMITS)
def test_a_replay_with_other_tokens_tells_no_time_twice_and_leaves_none_out(data, limits):
    """As after a change of the model in the middle of a call."""
    script = data.draw(scripts())
    whole = events(play(script, transcriber(*limits)))
    published = whole[: data.draw(st.integers(0, len(whole) - 1))]
    progress = counted(published)
    other = [_other_tokens(data, segment) for segment in script]
    alone = events(play(other, transcriber(*limits)))
    rest = events(play(other, transcriber(*limits, published=progress)))

    assert [event.head.number for event in published + rest] == list(range(len(published) + len(rest)))
    for kind in (Gap, Marker):
        assert [_plain(e) for e in published + rest if isinstance(e, kind)] == [
            _plain(e) for e in whole if isinstance(e, kind)
        ]
    words = [word for event in rest if isinstance(event, Utterance) for word in event.words]
    assert all(progress.time <= word.start <= word.end and word.end > progress.time for word in words)
    # what the other model hears after the time published, from there on
    assert [(word.text, word.start, word.end) for word in words] == [
        (word.text, max(word.start, progress.time), word.end)
        for event in alone
        if isinstance(event, Utterance)
        for word in event.words
        if word.end > progress.time
    ]
    end, spoken = rest[-1], [event for event in published + rest if isinstance(event, Utterance)]
    assert isinstance(end, StreamEnd)
    assert (end.utterances, end.words) == (len(spoken), sum(len(event.words) for event in spoken))


def _other_tokens(data, segment):
    frames = sorted(data.draw(st.lists(st.integers(0, segment.frames - 1), max_size=25)))
    return replace(segment, tokens=[(data.draw(st.sampled_from(PIECES)), frame, 0.5) for frame in frames])


def _plain(event):
    return replace(event, head=None)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), limits=LIMITS, published=st.integers(0, 5))
def test_a_restored_transcriber_goes_on_as_if_nothing_had_been(data, limits, published):
    """Also one that was captured in the middle of a replay."""
    script = data.draw(scripts())
    whole = events(play(script, transcriber(*limits)))
    before = counted(whole[:published])
    undisturbed = play(script, transcriber(*limits, published=before))
    moved = transcriber(*limits, published=before)
    steps = []

    class Moving:
        """Takes another transcriber for any step, with what is then published."""

        def hear(self, tokens, segment):
            self._move()
            return moved.hear(tokens, segment)

        def finish(self, segment):
            self._move()
            return moved.finish(segment)

        def _move(self):
            nonlocal moved
            if data.draw(st.booleans()):
                state = msgpack.unpackb(msgpack.packb(moved.state()))
                moved = transcriber(*limits, published=moved.progress)
                moved.restore(state)

    steps = play(script, Moving())
    assert steps == undisturbed


class Crash:
    """One transcriber for so many calls, then another that goes on from its state. `told`: what that one said."""

    def __init__(self, first, calls, make):
        self.listener, self.left, self.make = first, calls, make
        self.told = None

    def hear(self, tokens, segment):
        return self._call("hear", tokens, segment)

    def finish(self, segment):
        return self._call("finish", segment)

    def _call(self, method, *arguments):
        if self.left == 0:
            state = msgpack.unpackb(msgpack.packb(self.listener.state()))
            self.listener = self.make(self.listener.progress.number)
            self.listener.restore(state)
            self.told = []
        self.left -= 1
        found = getattr(self.listener, method)(*arguments)
        if self.told is not None:
            self.told.append([*found])
        return found


@settings(max_examples=300, deadline=None)
@given(data=st.data(), limits=LIMITS, calls=st.integers(0, 40))
def test_a_crash_some_events_after_a_checkpoint_tells_exactly_the_rest(data, limits, calls):
    script = data.draw(scripts())
    whole = events(play(script, transcriber(*limits)))
    published = None

    def restored(told_before):
        nonlocal published
        published = data.draw(st.integers(told_before, len(whole) - 1))
        return transcriber(*limits, published=counted(whole[:published]))

    crash = Crash(transcriber(*limits), calls, restored)
    play(script, crash)
    if published is not None:
        assert events(crash.told) == whole[published:]
        assert crash.listener.progress == counted(whole)


def test_the_utterance_that_straddles_is_cut_and_its_first_record_is_that_of_the_rest():
    said = [("▁a", 2, 1.0), ("▁b", 6, 0.5), ("▁d", 9, 0.7)]
    script = Script(14, said, [FRAME * 4, FRAME * 7])
    steps = tell(transcriber(published=Progress(number=4, time=240, utterances=2, words=3)), script)
    utterance, marker = events(steps)
    assert (utterance.text, utterance.start, utterance.head.number) == ("b d", 480, 4)
    assert utterance.head.offsets == (101, 103)
    assert (marker.head.id, marker.head.number) == ("s/0/3-100/5", 5)
    # a word of another model begins before the time published and ends after it
    utterance, _ = events(tell(transcriber(published=Progress(time=520)), script))
    assert [(word.text, word.start, word.end) for word in utterance.words] == [("b", 520, 560), ("d", 720, 800)]


def test_partials_of_a_replay_hold_only_what_is_not_published():
    script = Script(14, [("▁a", 2, 1.0), ("▁b", 6, 0.5), ("▁d", 9, 0.7)])
    steps = tell(transcriber(published=Progress(number=4, time=240)), script, range(2, 14, 2))
    assert [(p.head.number, p.text, p.stable, p.start) for p in partials(steps)] == [
        (4, "b", "", 480),
        (4, "b d", "b", 480),
    ]


def test_an_utterance_never_ends_within_a_frame():
    """Else two of its words would end at one time, and a replay could not tell which was published."""
    said = [("▁a", 0, 1.0), ("▁b", 1, 1.0), ("c", 10, 1.0), ("▁d", 10, 1.0)]
    steps = tell(transcriber(max_utterance_ms=720), Script(20, said))
    first, second, _ = events(steps)
    assert [first.text, second.text] == ["a", "bc d"]
    again = tell(transcriber(max_utterance_ms=720, published=counted([first])), Script(20, said))
    assert events(again)[0] == second


def test_words_past_the_end_of_the_audio_end_with_it_in_one_utterance():
    """20 ms of audio give two frames, the second wholly past its end."""
    segment = Segment(origin=1000)
    segment.mark(320, source(1))
    segment.boundary = Boundary("flush", 1020, source(2), "f")
    listener = transcriber(max_utterance_ms=80)
    told = listener.hear(Tokens([ID["▁a"], ID["▁b"]], [0, 1], [1.0, 1.0], 2), segment) + listener.finish(segment)
    utterance, _ = events([told])
    assert [(word.start, word.end) for word in utterance.words] == [(1000, 1020), (1020, 1020)]


@pytest.mark.parametrize("reason", ["end", "flush", "gap"])
def test_progress_counts_on_from_what_was_published(reason):
    listener = transcriber(published=Progress(3, 80, 0, 1, 1, 2))
    script = Script(40, [("▁a", 2, 1.0), ("▁b", 30, 1.0)], losses=[(9, 1, 2), (20 * FRAME, 1600, 1700)], reason=reason)
    told = events(tell(listener, script))
    more = {"end": (1, 0, 1), "flush": (1, 1, 1), "gap": (1, 0, 2)}[reason]
    assert len(told) == 4
    assert listener.progress == Progress(7, 31 * 80, more[1], 1 + more[2], 3, 4)
