"""A stream's tokens to its events. What matters: they do not depend on how the audio was cut into steps."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transcript.script import (
    FRAME,
    FRAME_MS,
    GEOMETRY,
    IDENTITY,
    PIECES,
    REGULAR,
    Script,
    events,
    finals,
    partials,
    source,
    tell,
    transcriber,
)
from wire.events import Gap, Marker, StreamEnd, Utterance
from worker.engine.interface import Tokens
from worker.stream.segment import Segment
from worker.transcript.transcriber import MAX_TOKENS, Endpointing, Transcriber


@st.composite
def scripts(draw):
    """Three segments of one stream, with losses of records in between."""
    found, origin, offset = [], 0, 100
    middle = draw(st.sampled_from([("flush", "gap"), ("gap", "flush"), ("flush", "flush"), ("gap", "gap")]))
    for reason in (*middle, draw(st.sampled_from(["end", "idle"]))):
        frames = draw(st.integers(1, 60))
        heard = sorted(draw(st.lists(st.integers(0, frames - 1), max_size=25)))
        script = Script(
            frames,
            [(draw(st.sampled_from(PIECES)), frame, draw(st.floats(0, 1))) for frame in heard],
            draw(st.lists(st.integers(1, frames * FRAME), max_size=12, unique=True)),
            reason=reason,
            origin=origin,
            first_offset=offset,
        )
        for sample in draw(st.lists(st.integers(0, script.samples - 1), max_size=3, unique=True)):
            script.losses.append((sample, origin + sample // 16, origin + sample // 16 + 10))
        origin = script.time + (5000 if reason == "gap" else 0)
        offset += len(script.records) + 2
        found.append(script)
    return found


def test_an_utterance_knows_the_record_with_the_end_of_its_last_word():
    """And is decided by a later one: the silence behind the word."""
    records = [FRAME * frame for frame in range(1, 40)]  # record n, from 0, holds frame n
    script = Script(40, [("▁a", 3, 1.0), ("▁b", 7, 1.0)], records)
    (said,) = [item for item in finals(tell(transcriber(silence_ms=400), script)) if isinstance(item.event, Utterance)]
    last = said.event.words[-1].end // FRAME_MS - 1  # frame
    assert last >= 7
    assert said.spoken == source(100 + last).timestamp < said.timestamp


@settings(max_examples=200, deadline=None)
@given(data=st.data(), geometry=st.sampled_from([GEOMETRY, REGULAR]))
def test_the_finals_do_not_depend_on_the_steps(data, geometry):
    script = data.draw(scripts())
    limits = data.draw(st.sampled_from([(800, 30_000), (80, 240), (160, 1000), (1, 1)]))

    def play(whole):
        listener, steps = transcriber(*limits, geometry=geometry), []
        for segment in script:
            chunks = range(2, segment.frames, 2)
            cuts = set() if whole or not chunks else data.draw(st.sets(st.sampled_from(chunks)))
            early = 0 if whole else data.draw(st.sampled_from([0, 300, 5000]))
            steps += tell(listener, segment, cuts, early, geometry)
        return steps

    undisturbed, steps = finals(play(whole=True)), play(whole=False)
    assert finals(steps) == undisturbed
    numbers = [item.event.head.number for item in undisturbed]
    assert numbers == list(range(len(numbers)))
    _check_partials(steps)


def _check_partials(steps):
    """Only on change; the stable part stays; the event that takes a partial's id is its utterance."""
    open_id, text, stable = None, None, ""
    for item in (item for told in steps for item in told):
        event = item.event
        if isinstance(event, Utterance):
            if event.head.id == open_id:
                assert event.text.startswith(stable)
            open_id, text, stable = None, None, ""
        elif isinstance(event, Gap | Marker | StreamEnd):
            assert event.head.id != open_id
        else:
            if event.head.id != open_id:
                assert open_id is None
                open_id, stable = event.head.id, ""
            assert event.text != text
            assert event.text.startswith(stable)
            assert event.stable.startswith(stable)
            text, stable = event.text, event.stable


def test_words_have_times_confidence_and_the_records_they_came_with():
    tokens = [("▁a", 2, 0.9), ("c", 3, 0.7), ("▁b", 5, 1.0)]
    script = Script(8, tokens, [FRAME * 2 + 50, FRAME * 4, FRAME * 7], origin=1000)
    utterance, marker = events(tell(transcriber(), script))
    assert utterance.text == "ac b"
    assert [(w.text, w.start, w.end) for w in utterance.words] == [("ac", 1160, 1320), ("b", 1400, 1480)]
    assert [w.confidence for w in utterance.words] == pytest.approx([0.8, 1.0])
    assert (utterance.start, utterance.end, utterance.reason) == (1160, 1480, "flush")
    assert utterance.head.offsets == (100, 104)  # the flush decided it
    assert (utterance.head.id, utterance.head.number) == ("s/0/3-100/0", 0)
    assert (utterance.head.stream, utterance.head.model, utterance.head.language) == ("s/0", "m", "en")
    assert (utterance.head.call_id, utterance.head.channel) == ("call", "agent")
    assert utterance.head.metadata == IDENTITY.metadata
    assert (marker.flush_id, marker.time, marker.head.offsets) == ("f", script.time, (104, 104))
    assert (marker.head.id, marker.head.number) == ("s/0/3-100/1", 1)


def test_an_utterance_ends_at_the_frame_in_which_its_silence_is_complete():
    said = [("▁a", 4, 1.0)]
    # the word ends with frame 5; ten frames of 80 ms are the silence
    for frames, reason in [(14, "flush"), (15, "silence"), (16, "silence")]:
        utterance, _ = events(tell(transcriber(silence_ms=800), Script(frames, said)))
        assert utterance.reason == reason
    for silence_ms, frame in [(800, 15), (801, 16), (720, 14)]:
        said = [("▁a", 4, 1.0), ("▁b", frame, 1.0)]
        first, *rest = events(tell(transcriber(silence_ms=silence_ms), Script(40, said)))
        assert (first.text, first.reason, len(rest)) == ("a", "silence", 2)
        said = [("▁a", 4, 1.0), ("▁b", frame - 1, 1.0)]
        assert events(tell(transcriber(silence_ms=silence_ms), Script(40, said)))[0].text == "a b"


def test_silence_is_told_with_the_record_that_completed_its_chunk():
    # frame 14 completes it, in the chunk of frames 14 and 15, which needs 15 * 1280 + 200 samples
    records = [15 * FRAME + 199, 15 * FRAME + 200, 16 * FRAME]
    (utterance, _) = finals(tell(transcriber(), Script(30, [("▁a", 4, 1.0)], records)))
    assert utterance.event.head.offsets == (100, 101)
    assert utterance.timestamp == source(101).timestamp


def test_a_piece_that_starts_no_word_opens_one_after_an_endpoint():
    said = [("▁a", 0, 1.0), ("c", 30, 1.0), (",", 31, 1.0)]
    assert [e.text for e in events(tell(transcriber(), Script(60, said)))[:2]] == ["a", "c,"]


def test_an_utterance_that_is_too_long_is_cut_before_the_word_that_passes_it():
    said = [("▁a", 0, 1.0), ("▁b", 5, 1.0), ("▁d", 10, 1.0), ("c", 11, 1.0)]
    first, second, _ = events(tell(transcriber(max_utterance_ms=800), Script(20, said)))
    assert [(e.text, e.reason, e.start, e.end) for e in (first, second)] == [
        ("a b", "max_length", 0, 480),
        ("dc", "flush", 800, 960),
    ]


def test_a_word_that_grows_past_the_length_opens_the_next_utterance_whole():
    said = [("▁a", 0, 1.0), ("▁b", 9, 1.0), ("c", 10, 1.0), ("▁d", 12, 1.0)]
    steps = tell(transcriber(max_utterance_ms=800), Script(20, said), range(2, 20, 2))
    assert [(e.text, e.reason) for e in events(steps)[:2]] == [("a", "max_length"), ("bc d", "flush")]
    assert [(p.head.number, p.text, p.stable) for p in partials(steps)] == [
        (0, "a", ""),
        (0, "a b", "a"),
        (1, "bc", ""),
        (1, "bc d", "bc"),
    ]


def test_a_single_word_that_is_too_long_is_cut_inside():
    """Vocabularies of languages without spaces may never mark the start of a word."""
    said = [("c", frame, 1.0) for frame in range(25)]
    cut = events(tell(transcriber(max_utterance_ms=800), Script(30, said)))
    assert [e.text for e in cut[:-1]] == ["c" * 10, "c" * 10, "c" * 5]


def test_no_stream_can_ask_for_utterances_without_end():
    frames = MAX_TOKENS + 100
    said = [(("▁a", "c")[frame % 2], frame, 0.5) for frame in range(frames)]
    first, second, _ = events(tell(transcriber(2**62, 2**62), Script(frames, said), [frames // 2 * 2]))
    assert (len(first.words), first.reason) == (MAX_TOKENS // 2, "max_length")
    assert len(second.words) == 50


def test_a_gap_is_told_when_its_place_is_reached():
    script = Script(40, [("▁a", 2, 1.0), ("▁b", 30, 1.0)], losses=[(20 * FRAME, 1600, 1700)])
    steps = tell(transcriber(), script, range(2, 40, 2))
    assert [type(e) for e in events(steps)] == [Utterance, Gap, Utterance, Marker]
    gap = events(steps)[1]
    assert (gap.start, gap.end, gap.head.offsets) == (1600, 1700, (100, 100))


def test_a_gap_within_an_utterance_is_told_after_it():
    """Its partials bear the utterance's id and number, which no other event may take."""
    script = Script(40, [("▁a", 2, 1.0), ("▁b", 8, 1.0)], losses=[(5 * FRAME, 400, 500)])
    steps = tell(transcriber(), script, range(2, 40, 2))
    assert [type(e) for e in events(steps)] == [Utterance, Gap, Marker]
    assert {p.head.id for p in partials(steps)} == {events(steps)[0].head.id}


def test_a_long_gap_ends_the_utterance_and_the_next_segment_goes_on_in_time():
    listener = transcriber()
    first = Script(10, [("▁a", 9, 1.0)], reason="gap")
    utterance, gap = events(tell(listener, first))
    assert utterance.reason == "gap"
    assert (gap.start, gap.end) == (first.time, first.time + 5000)
    second = Script(10, [("▁b", 0, 1.0)], reason="end", origin=gap.end, first_offset=200)
    utterance, end = events(tell(listener, second))
    assert (utterance.start, utterance.head.number) == (gap.end, 2)
    assert (end.head.number, end.utterances, end.words) == (3, 2, 2)


@pytest.mark.parametrize("reason", ["end", "idle", "restarted"])
def test_the_end_has_the_totals(reason):
    listener = transcriber()
    tell(listener, Script(50, [("▁a", 2, 1.0), ("▁b", 20, 1.0), ("▁d", 21, 1.0)]))
    script = Script(
        10, [("▁a", 2, 1.0)], losses=[(5 * FRAME, 4410, 4448)], reason=reason, origin=4000, first_offset=300
    )
    utterance, gap, end = events(tell(listener, script))
    assert (utterance.reason, type(gap)) == (reason, Gap)
    assert (end.reason, end.duration, end.utterances, end.words, end.gap_ms) == (reason, script.time, 3, 4, 38)


def test_a_segment_without_a_word_gives_only_its_boundary():
    (marker,) = events(tell(transcriber(), Script(10, [("▁", 3, 1.0)])))
    assert isinstance(marker, Marker)
    listener, segment = transcriber(), Segment(origin=80)
    with pytest.raises(ValueError, match="has not ended"):
        listener.finish(segment)


def test_partials_come_only_on_change_and_bear_the_id_of_their_utterance():
    script = Script(40, [("▁a", 1, 1.0), ("c", 3, 1.0), ("▁", 5, 1.0), ("▁b", 7, 1.0), ("▁d", 31, 1.0)])
    steps = tell(transcriber(), script, range(2, 40, 2))
    found = [(p.head.number, p.text, p.stable, p.start, p.end) for p in partials(steps)]
    assert found == [
        (0, "a", "", 80, 160),
        (0, "ac", "", 80, 320),
        (0, "ac b", "ac", 80, 640),
        (1, "d", "", 2480, 2560),
    ]
    assert [p.head.id for p in partials(steps)][-1] == events(steps)[1].head.id


def test_partials_can_be_left_out_and_change_nothing_else():
    script = Script(40, [("▁a", 1, 1.0), ("▁d", 31, 1.0)])
    quiet = tell(transcriber(partials=False), script, range(2, 40, 2))
    assert partials(quiet) == []
    assert events(quiet) == events(tell(transcriber(), script))


def test_a_long_segment_keeps_only_the_marks_of_the_open_utterance():
    listener = transcriber()
    script = Script(4000, [("▁a", f, 1.0) for f in range(0, 4000, 20)], list(range(1600, 4000 * FRAME, 1600)))
    kept = []
    hear = listener.hear

    def watched(tokens, segment):
        told = hear(tokens, segment)
        kept.append(len(segment._ends))
        return told

    listener.hear = watched
    tell(listener, script, range(2, 4000, 2))
    assert max(kept) < 40


def test_the_last_record_not_yet_heard_stays_known():
    """A chunk is computed before all of its last frame's audio has come: that audio is heard with the next."""
    listener, segment = transcriber(), Segment(origin=0)
    segment.mark(FRAME + 200, source(1))
    segment.mark(FRAME + 300, source(2))
    segment.mark(3 * FRAME, source(3))
    listener.hear(Tokens(heard=2), segment)
    assert segment.oldest_after(FRAME + 200) == source(2)


def test_every_length_counts_in_stream_time_and_not_in_frames_of_another_model():
    coarse = replace(GEOMETRY, subsampling=4)
    assert coarse.frame_ms == FRAME_MS // 2
    listener = Transcriber(IDENTITY, Endpointing(800, 30_000, True), PIECES, coarse, 1)
    assert listener._silence == 20
