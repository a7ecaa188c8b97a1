"""A session's promise: whatever order records come in, the engine hears the audio that was sent, at its time."""

import math
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stream.heard import FIRST, LIMITS, MS, Heard, begin, converted, floats, noise, piece, pieces
from wire import ENCODINGS, SAMPLE_RATES, Audio, End, Flush, Start, WireError
from wire.records import BYTES_PER_SAMPLE
from worker.stream.pcm import decode
from worker.stream.resample import Resampler
from worker.stream.segment import Boundary, Loss, Source
from worker.stream.session import HELD_RECORDS, Session, SessionLimits, Speech


@st.composite
def disorder(draw):
    """A stream of several segments, each sent in any order, with repeats and overlapping records."""
    rate = draw(st.sampled_from([16000, 8000, 44100]))
    lengths = draw(st.lists(st.lists(st.integers(1, rate // 10), min_size=1, max_size=8), min_size=1, max_size=3))
    pcm = noise(sum(map(sum, lengths)), draw(st.integers(0, 2**32 - 1)))
    rng = random.Random(draw(st.integers(0, 2**32 - 1)))
    records, sequence, position, ends = [], 0, 0, []
    for number, cuts in enumerate(lengths):
        part = []
        for cut in cuts:
            part.append(piece(pcm, sequence, position, position + cut))
            sequence, position = sequence + 1, position + cut
        for _ in range(draw(st.integers(0, 4))):
            again = rng.choice(part + [r for r in records if isinstance(r, Audio)])
            # as it was, or with more of the audio around it, as long as it was sent before the flush
            front, back = rng.choice([(0, 0), (rng.randrange(200), rng.randrange(200))])
            stop = again.position + len(again.payload) // 2 + back
            part.append(piece(pcm, again.sequence, max(0, again.position - front), min(stop, position)))
        rng.shuffle(part)
        records += [*part, Flush(f"f{number}", position=draw(st.sampled_from([None, position])))]
        ends.append(position)
    return rate, pcm, ends, records


@settings(max_examples=150, deadline=None)
@given(disorder())
def test_any_order_with_repeats_and_overlaps_gives_the_undisturbed_segments(case):
    rate, pcm, ends, records = case
    total = sum(len(r.payload) // 2 for r in records if isinstance(r, Audio))
    limits = SessionLimits(total * 1000 // rate + 2, 500, 60_000)
    heard = begin(rate, limits=limits).play(*records)
    assert heard.losses == []
    assert [b.reason for b in heard.boundaries] == ["flush"] * len(ends)
    assert [b.flush_id for b in heard.boundaries] == [f"f{i}" for i in range(len(ends))]
    for start, end, segment in zip([0, *ends], ends, heard.segments, strict=False):
        assert np.array_equal(segment.samples, converted(pcm[start:end], rate))
        assert segment.boundary.time == end * 1000 // rate
    assert heard.session.gap_ms == 0
    offsets = [item.source.offset for item in heard.items]
    assert offsets == sorted(offsets)


@given(st.lists(st.integers(0, 39), min_size=1, max_size=120), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_time_runs_on_without_holes_and_little_is_held(order, seed):
    """Records in any order far beyond the window, many lost: speech and gaps together cover the stream once."""
    pcm = noise(40 * 1600, seed)
    held = Heard(Session("pcm_s16le", 16000, None, LIMITS, FIRST))
    record = pieces(pcm, 1600)
    for number in order:
        held.play(record[number])
        assert held.session._held_samples < 1000 * MS + 1600
        assert sum(len(h.samples) for h in held.session._held.values()) == held.session._held_samples
    held.play(End(position=len(pcm)))
    at, mine = 0, iter(held.items)
    for item in mine:
        if isinstance(item, Speech):
            assert np.array_equal(item.samples, floats(pcm[at : at + len(item.samples)]))
            at += len(item.samples)
        elif isinstance(item, Loss):
            assert item.start == at // MS
            assert item.end - item.start <= 500
            silence = next(mine)
            assert not silence.samples.any()
            assert len(silence.samples) == (item.end - item.start) * MS
            at += len(silence.samples)
        elif item.reason == "gap":
            assert item.time == at // MS
            assert item.gap_end - item.time > 500
            at = item.gap_end * MS
    assert at == len(pcm)
    assert (held.items[-1].reason, held.items[-1].time) == ("end", 4000)
    lost = [i.end - i.start for i in held.items if isinstance(i, Loss)]
    lost += [b.gap_end - b.time for b in held.boundaries if b.reason == "gap"]
    whole = sum(1 for i in held.items if isinstance(i, Speech) and i.samples.any())
    assert sum(lost) == held.items[-1].gap_ms == 4000 - 100 * whole


@pytest.mark.parametrize("rate", [16000, 8000, 48000])
def test_a_short_gap_becomes_silence_of_its_length_and_a_loss_with_its_times(rate):
    pcm = noise(rate)
    ms = rate // 1000
    sent = [piece(pcm, 0, 0, 100 * ms), piece(pcm, 2, 350 * ms, 1000 * ms)]
    heard = begin(rate, limits=SessionLimits(600, 500, 60_000)).play(*sent, End(position=rate))
    silent = pcm.copy()
    silent[100 * ms : 350 * ms] = 0
    assert np.array_equal(heard.samples, converted(silent, rate))
    (loss,) = heard.segments[0].losses
    assert (loss.start, loss.end, loss.source.offset) == (100, 350, 102)
    # the resampler holds back under 5 ms
    assert 0 <= 1600 - loss.sample <= 5 * MS
    assert heard.boundaries[-1].gap_ms == 250


def test_a_long_gap_ends_the_segment_and_moves_the_clock():
    pcm = noise(16000)
    heard = begin().play(piece(pcm, 0, 0, 1600), piece(pcm, 1, 11_200, 16_000), End())
    gap, end = heard.boundaries
    assert (gap.reason, gap.time, gap.gap_end, gap.resumes) == ("gap", 100, 700, 700)
    assert (end.reason, end.time, end.resumes, end.gap_ms) == ("end", 1000, 1000, 600)
    assert [len(s.samples) for s in heard.segments] == [1600, 4800, 0]
    assert heard.losses == []


def test_the_longest_gap_that_is_filled_and_the_shortest_that_is_not():
    pcm = noise(32_000)
    assert begin().play(piece(pcm, 0, 500 * MS, 600 * MS)).losses == [(0, 500)]
    (boundary,) = begin().play(piece(pcm, 0, 501 * MS, 600 * MS)).boundaries
    assert (boundary.time, boundary.gap_end) == (0, 501)


def test_a_gap_is_known_at_once_when_the_sequence_goes_on_by_one():
    pcm = noise(16000)
    heard = begin().play(piece(pcm, 0, 0, 1600), piece(pcm, 1, 3200, 4800))
    assert heard.losses == [(100, 200)]
    assert len(heard.samples) == 4800


def test_missing_audio_is_given_up_after_enough_later_audio_and_not_before():
    pcm = noise(32_000)
    heard = begin().play(piece(pcm, 0, 0, 1600))
    later = [piece(pcm, i, i * 1600, i * 1600 + 1600) for i in range(2, 12)]
    heard.play(*later[:9])
    assert len(heard.samples) == 1600
    heard.play(later[9])
    assert heard.losses == [(100, 200)]
    assert len(heard.samples) == 12 * 1600


def test_audio_that_comes_after_it_was_given_up_is_dropped():
    pcm = noise(8000)
    heard = begin().play(piece(pcm, 0, 0, 1600), piece(pcm, 2, 3200, 4800), Flush("f"), piece(pcm, 1, 1600, 3200))
    assert heard.session.duplicates == 1600
    assert len(heard.samples) == 4800


@pytest.mark.parametrize(("position", "expected"), [(3200, [(100, 200)]), (1600, []), (None, []), (800, [])])
@pytest.mark.parametrize("last", ["flush", "end"])
def test_flush_and_end_show_a_missing_tail(last, position, expected):
    closing = Flush("f", position=position) if last == "flush" else End(position=position)
    heard = begin().play(piece(noise(1600), 0, 0, 1600), closing)
    assert heard.losses == expected
    (boundary,) = heard.boundaries
    assert (boundary.reason, boundary.time) == (last, max(100, (position or 0) // MS))
    assert boundary.ends_stream == (last == "end")


def test_a_long_missing_tail_is_a_gap_and_the_end_comes_after_it():
    heard = begin().play(piece(noise(1600), 0, 0, 1600), End(position=16000))
    gap, end = heard.boundaries
    assert (gap.reason, gap.ends_stream, gap.time, gap.gap_end) == ("gap", False, 100, 1000)
    assert (end.reason, end.ends_stream, end.time, end.gap_ms) == ("end", True, 1000, 900)


def test_an_end_that_lies_absurdly_far_ahead_still_ends_the_stream():
    (end,) = begin().play(piece(noise(1600), 0, 0, 1600), End(position=2**62)).boundaries
    assert (end.reason, end.time, end.gap_ms) == ("end", 100, 0)


def test_a_flush_gives_up_all_that_is_held_and_the_stream_goes_on_afresh():
    pcm = noise(8000)
    heard = begin(8000).play(piece(pcm, 0, 0, 800), piece(pcm, 2, 1600, 2400), Flush("f"), piece(pcm, 3, 2400, 3200))
    silent = pcm.copy()
    silent[800:1600] = 0
    first, second = heard.segments
    assert np.array_equal(first.samples, converted(silent[:2400], 8000))
    assert (first.boundary.flush_id, first.boundary.resumes) == ("f", 300)
    assert np.array_equal(heard.play(End()).segments[1].samples, converted(pcm[2400:3200], 8000))
    assert second.boundary is None


@pytest.mark.parametrize("reason", ["idle", "restarted"])
def test_idle_and_restarted_end_the_stream_with_what_is_held(reason):
    pcm = noise(8000)
    heard = begin().play(piece(pcm, 0, 0, 1600), piece(pcm, 2, 3200, 4800))
    newer = Source(999, 9_999)
    heard.items += heard.session.idle() if reason == "idle" else heard.session.restarted(newer)
    assert heard.losses == [(100, 200)]
    (boundary,) = heard.boundaries
    assert (boundary.reason, boundary.time, boundary.ends_stream) == (reason, 300, True)
    assert boundary.source == (Source(102, 6_020) if reason == "idle" else newer)


def test_a_stream_without_any_audio_ends_with_the_source_of_its_start():
    heard = begin()
    heard.items += heard.session.idle()
    assert heard.items == [Boundary("idle", 0, FIRST)]


@pytest.mark.parametrize(
    ("encoding", "payload", "reason"),
    [
        ("pcm_s16le", b"\0" * 3, "payload_alignment"),
        ("pcm_f32le", b"\0" * 6, "payload_alignment"),
        ("pcm_f32le", np.array([0, math.nan], "<f4").tobytes(), "payload_not_finite"),
        ("pcm_f32le", np.array([math.inf, 0], "<f4").tobytes(), "payload_not_finite"),
    ],
)
def test_a_rejected_payload_leaves_a_gap_that_nobody_waits_for(encoding, payload, reason):
    good = np.zeros(160, "<i2" if encoding == "pcm_s16le" else "<f4").tobytes()
    heard = begin(encoding=encoding).play(Audio(0, 0, good))
    with pytest.raises(WireError) as error:
        heard.play(Audio(1, 160, payload))
    assert (error.value.reason, error.value.field) == (reason, "payload")
    heard.play(Audio(2, 320, good))
    assert heard.losses == [(10, 20)]
    assert len(heard.samples) == 480


def test_held_audio_need_not_wait_for_a_payload_that_was_rejected():
    pcm = noise(8000)
    heard = begin().play(piece(pcm, 0, 0, 1600), piece(pcm, 2, 3200, 4800))
    with pytest.raises(WireError):
        heard.play(Audio(1, 1600, b"odd"))
    heard.play(piece(pcm, 3, 4800, 6400))
    assert heard.losses == [(100, 200)]
    assert len(heard.samples) == 6400


def test_however_short_the_records_ahead_are_only_so_many_are_held():
    pcm = noise(160 + HELD_RECORDS + 2)
    heard = begin().play(piece(pcm, 0, 0, 160))
    ahead = [piece(pcm, 2 + n, 161 + n, 162 + n) for n in range(HELD_RECORDS + 1)]
    heard.play(*ahead[:HELD_RECORDS])
    assert len(heard.samples) == 160
    heard.play(*ahead[HELD_RECORDS:])
    assert len(heard.samples) == 160 + 1 + len(ahead)  # the missing sample is silence


def test_audio_too_far_ahead_is_rejected_and_the_stream_goes_on():
    pcm = noise(3200)
    heard = begin().play(piece(pcm, 0, 0, 1600))
    with pytest.raises(WireError) as error:
        heard.play(Audio(1, 1600 + 60_000 * MS + 1, b"\0\0"))
    assert (error.value.reason, error.value.field) == ("position_out_of_range", "position")
    heard.play(piece(pcm, 1, 1600, 3200))
    assert np.array_equal(heard.samples, floats(pcm))
    assert heard.play(Audio(2, 3200 + 60_000 * MS, b"\0\0")).boundaries[0].gap_end == 60_200


@pytest.mark.parametrize("numbers", [[9, 8, 7, 6], [0, 0, 0, 0], [0, 10**12, 1, 2**62], [5, 4, 10**12, 0]])
def test_audio_in_its_place_is_taken_whatever_its_sequence_number(numbers):
    pcm = noise(6400)
    sent = [piece(pcm, number, i * 1600, i * 1600 + 1600) for i, number in enumerate(numbers)]
    heard = begin().play(*sent)
    assert np.array_equal(heard.samples, floats(pcm))
    assert heard.losses == []


def test_after_a_wild_sequence_number_a_gap_is_still_given_up_in_time():
    pcm = noise(32_000)
    heard = begin().play(piece(pcm, 10**12, 0, 1600), *(piece(pcm, i, i * 1600, i * 1600 + 1600) for i in range(2, 12)))
    assert heard.losses == [(100, 200)]
    assert len(heard.samples) == 12 * 1600


def test_a_longer_record_replaces_a_shorter_one_that_is_held_at_its_place():
    pcm = noise(4800)
    heard = begin().play(piece(pcm, 1, 1600, 1700), piece(pcm, 1, 1600, 4800), piece(pcm, 1, 1600, 3200))
    assert heard.session.duplicates == 1700
    assert np.array_equal(heard.play(piece(pcm, 0, 0, 1600)).samples, floats(pcm))


def test_tens_of_thousands_of_tiny_records_ahead_cost_no_more_than_their_number():
    """One sample a record is legal; it must not stop the event loop for seconds."""
    session = Session("mulaw", 48000, None, SessionLimits(2000, 500, 60_000), FIRST)
    began = time.thread_time()
    for position in range(20_000, 0, -1):
        session.audio(Audio(position, position, b"\xff"), Source(1, 1))
    session.audio(Audio(0, 0, b"\xff"), Source(1, 1))
    assert session.time == 20_001 // 48
    assert time.thread_time() - began < 2  # 0.2 s; with a search for the earliest each time, 6 s


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rate", SAMPLE_RATES)
def test_every_encoding_and_rate(encoding, rate):
    rng = np.random.default_rng(3)
    count = rate // 5
    if encoding == "pcm_f32le":
        payload = (rng.standard_normal(count) / 4).astype("<f4").tobytes()
    else:
        payload = rng.bytes(count * BYTES_PER_SAMPLE[encoding])
    width, cut = BYTES_PER_SAMPLE[encoding], count // 3
    heard = begin(rate, encoding).play(
        Audio(1, cut, payload[cut * width :]), Audio(0, 0, payload[: cut * width]), End(position=count)
    )
    resampler = Resampler(rate)
    whole = np.concatenate([resampler.process(decode(payload, encoding)), resampler.flush()])
    assert np.array_equal(heard.samples, whole)
    assert heard.boundaries[0].time == count * 1000 // rate == 200


def test_the_nonce_tells_resends_from_other_producers():
    session = begin(nonce="a").session
    assert [session.accepts_nonce(nonce) for nonce in ("a", None, "b")] == [True, True, False]
    assert [session.start_again(Start(nonce)) for nonce in ("a", "b")] == [True, False]
