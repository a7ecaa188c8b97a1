"""Routing of one partition's records to streams, by the rules of docs/wire.md; a recorder stands for Kafka."""

import asyncio
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tests.batching.fake import GEOMETRY, INFO, MODES, FakeEngine
from wire import Audio, End, Flush, Options, Start, encode_final, encode_partial, encode_record, encode_rejected
from wire.events import Gap, Marker, Partial, StreamEnd, Utterance
from worker.batching.runner import Runner
from worker.batching.scheduler import Scheduler
from worker.delivery.table import Row, Table, row_key
from worker.engine.interface import Tokens
from worker.live import Deployment
from worker.partition import Partition
from worker.settings import KafkaSettings, StreamSettings
from worker.stream.session import SessionLimits
from worker.telemetry.metrics import Metrics
from worker.transcript.transcriber import Progress

MODE = MODES[1]
NOISE = np.random.default_rng(1).integers(-9000, 9000, 80_000).astype("<i2").tobytes()


class Speaking(FakeEngine):
    """Says a word in every third frame."""

    def step(self, rows):
        before = [len(self.held[row.slot].heard) and self._frames(row.slot) for row in rows]
        found = super().step(rows)
        for tokens, first in zip(found, before, strict=True):
            tokens.frames = [frame for frame in range(first, tokens.heard) if frame % 3 == 0]
            tokens.ids = [1] * len(tokens.frames)
            tokens.confidences = [0.5] * len(tokens.frames)
        return found

    def _frames(self, slot):
        return (self.held[slot].samples - GEOMETRY.half_window) // GEOMETRY.frame_samples + 1


@dataclass
class Recorder:
    """In place of the outbox: what was told and rejected, after a trip over the wire."""

    told_items: list = field(default_factory=list)
    rejects: list = field(default_factory=list)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self, stream, items):
        for item in items:
            (encode_partial if isinstance(item.event, Partial) else encode_final)(item.event)
            assert item.timestamp > 0
            self.told_items.append((stream, item.event))

    def take(self):
        return []

    def rejected(self, key, offset, rejected):
        encode_rejected(rejected)
        self.rejects.append((offset, key, rejected.reason))

    def events(self, stream):
        return [event for name, event in self.told_items if name == stream and not isinstance(event, Partial)]

    @property
    def reasons(self):
        return [reason for _, _, reason in self.rejects]


class Harness:
    """A partition with a real scheduler, and the fake engine stepped on this thread."""

    def __init__(self, table=None, first=50, info=INFO, **settings):
        self.out = Recorder()
        self.metrics = Metrics()
        self.scheduler = Scheduler(GEOMETRY, 4, 4, 4)
        self.settings = StreamSettings(sample_rate=16000, **settings)
        deployment = Deployment(self.settings, MODE, info, self.scheduler)
        self.partition = Partition(3, first, table or Table(), {}, deployment, self.out, KafkaSettings(), self.metrics)
        self.runner = Runner(Speaking(4), self.scheduler, lambda done: None, lambda error: None)
        self.offset = first

    def raw(self, key, value):
        self.partition.accept(key, value, self.offset, 10_000 + self.offset)
        self.offset += 1

    def send(self, stream, *records):
        for record in records:
            self.raw(stream.encode(), encode_record(record))
        return self

    def step(self):
        while self.scheduler.occupancy().ready:
            batch = self.scheduler.take()
            for work, tokens in self.runner._step(batch).results:
                work.feed.owner.partition.heard(work.feed.owner, tokens, work.last)
            self.scheduler.done(batch)
        return self

    def count(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"trunkline_{name}", labels)


def audio(sequence, nonce=None, samples=1600):
    start = sequence * samples
    return Audio(sequence, start, NOISE[start * 2 : (start + samples) * 2], nonce)


def speech(count=4, nonce=None, first=0):
    return [audio(first + i, nonce) for i in range(count)]


def start(nonce="n", rate=16000, **options):
    return Start(nonce, "pcm_s16le", rate, options=Options(**options))


def kinds(events):
    return [type(event) for event in events]


def test_a_call_from_start_to_end():
    harness = Harness()
    head = Start("n", "pcm_s16le", 16000, "de", "call", "agent", {"queue": 7}, Options())
    harness.send("s", head, *speech(4, "n"), Flush("f", "n"), *speech(4, "n", 4), End("n")).step()
    events = harness.out.events("s")
    assert kinds(events) == [Utterance, Marker, Utterance, StreamEnd]
    assert [event.head.id for event in events] == [f"s/3-50/{n}" for n in range(4)]
    assert (events[0].head.call_id, events[0].head.channel, events[0].head.language) == ("call", "agent", "de")
    assert (events[0].head.metadata, events[0].head.model) == ({"queue": 7}, "fake")
    assert (events[2].start, events[3].duration, events[3].reason) == (400, 800, "end")
    assert harness.out.rejects == []
    assert harness.scheduler.occupancy().active == len(harness.scheduler._feeds) == 0
    assert harness.count("records_read_total") == 11
    assert harness.count("streams_started_total") == 1
    harness.partition.account()
    assert harness.count("audio_read_seconds_total") == pytest.approx(0.8)
    assert harness.count("streams_ended_total", reason="end") == 1
    assert [harness.count("events_total", type=name) for name in ("utterance", "marker", "gap", "end")] == [2, 1, 0, 1]


def test_a_start_sent_again_is_ignored():
    harness = Harness().send("s", start(), *speech(2), start(), *speech(2, first=2), start(), End()).step()
    assert kinds(harness.out.events("s")) == [Utterance, StreamEnd]
    assert harness.count("records_duplicate_total") == 2
    assert harness.out.rejects == []


def test_a_new_nonce_ends_the_old_stream_and_begins_a_new_one():
    harness = Harness().send("s", start("a"), *speech(4, "a"), start("b"), *speech(3, "b"), End("b")).step()
    first, ended, second, end = harness.out.events("s")
    assert (first.reason, ended.reason, ended.duration) == ("restarted", "restarted", 400)
    assert [event.head.id for event in (first, ended)] == ["s/3-50/0", "s/3-50/1"]
    assert [event.head.id for event in (second, end)] == ["s/3-55/0", "s/3-55/1"]
    assert (second.start, end.reason, end.duration) == (0, "end", 300)


@pytest.mark.parametrize("record", [audio(4, "x"), Flush("f", "x"), End("x", position=10)])
def test_a_foreign_nonce_is_rejected_and_the_stream_goes_on(record):
    harness = Harness().send("s", start(), *speech(4, "n"), record, *speech(2, "n", 4), End()).step()
    assert harness.out.rejects == [(55, b"s", "foreign_nonce")]
    assert harness.out.events("s")[-1].duration == 600


def test_after_the_end_only_a_new_start_is_taken():
    harness = Harness().send("s", start(), *speech(2), End("n"), audio(2), audio(2, "n"), Flush("f"), audio(0), End())
    assert harness.out.reasons == ["after_end"] * 4  # the end sent again is ignored
    harness.step().send("s", start("m"), *speech(2, "m"), End("m")).step()
    assert [e.head.id for e in harness.out.events("s")] == ["s/3-50/0", "s/3-50/1", "s/3-59/0", "s/3-59/1"]


BATCH = [start(), *speech(2, "n"), Flush("f", "n", 3200), *speech(2, "n", 2), Flush("g", "n"), End("n", 6400)]


@pytest.mark.parametrize("again", [BATCH[since:] for since in range(len(BATCH))])
@pytest.mark.parametrize("restarted", [False, True])
def test_what_a_stream_sent_last_may_come_again_after_its_end(again, restarted):
    once = Harness().send("s", *BATCH).step()
    harness = Harness().send("s", *BATCH).step()
    if restarted:  # all is published, and another worker goes on
        (row,) = harness.partition._told
        after = Harness(Table(read=harness.offset, ended={row_key("s", 3, 50): row}), harness.offset)
        after.out, after.partition.outbox = harness.out, harness.out
        harness = after
    harness.send("s", *again, *again).step()
    assert harness.out.events("s") == once.out.events("s")
    assert harness.out.rejects == []
    assert harness.count("records_duplicate_total") == 2 * len(again)
    harness.send("s", audio(4, "n"), audio(3), Flush("h", "n"))  # these are new
    assert harness.out.reasons == ["after_end"] * 3


def test_a_flush_sent_again_is_answered_once():
    harness = Harness().send("s", start(), *speech(2), Flush("f"), Flush("g"), *speech(2), Flush("f"), Flush("g"))
    harness.send("s", *speech(2, first=2), Flush("f", position=6400), End()).step()
    events = harness.out.events("s")
    assert [e.flush_id for e in events if isinstance(e, Marker)] == ["f", "g", "f"]  # the last at another position
    assert harness.count("records_duplicate_total") == 4
    assert harness.out.rejects == []


def test_audio_without_a_start_is_taken_with_the_defaults():
    harness = Harness(encoding="mulaw", language="fr").send("s", Audio(0, 0, bytes(3200)), End()).step()
    utterance, end = harness.out.events("s")
    assert (end.duration, utterance.head.language, utterance.head.id) == (200, "fr", "s/3-50/0")
    assert harness.out.rejects == []


@pytest.mark.parametrize("record", [audio(0, "n"), Flush("f"), End(), Flush("f", "n"), End("n", 100)])
def test_a_record_of_a_stream_that_never_began_is_rejected(record):
    harness = Harness().send("s", record).step()
    assert harness.out.rejects == [(50, b"s", "not_started")]
    assert harness.out.told_items == []
    assert harness.partition.open_streams == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"look_ahead": 13}, "look_ahead_not_supported"), ({"look_ahead": 2}, "look_ahead_not_supported")],
)
def test_a_start_that_the_model_cannot_serve_is_rejected(options, reason):
    harness = Harness().send("s", start(**options), audio(0, "n")).step()
    assert harness.out.reasons == [reason, "not_started"]


def test_a_decoder_that_the_model_lacks_is_rejected_and_a_living_stream_stays():
    harness = Harness(info=replace(INFO, decoders=("rnnt",)))
    harness.send("s", start("a"), *speech(2, "a"), start("b", decoder="ctc"), *speech(2, "a", 2), End()).step()
    assert harness.out.rejects == [(53, b"s", "decoder_not_supported")]
    assert harness.out.events("s")[-1].duration == 400


def test_what_a_stream_asks_for_wins_over_the_defaults():
    harness = Harness(idle_ms=1000)
    harness.send("s", start(look_ahead=0, decoder="ctc", endpoint_ms=1, partials=False), *speech(8))
    (live,) = harness.partition.live
    assert (live.feed.mode.look_ahead, live.feed.mode.decoder, live.idle_s) == (0, "ctc", 1.0)
    harness.step().send("s", End()).step()
    assert all(not isinstance(event, Partial) for _, event in harness.out.told_items)
    assert [e.reason for e in harness.out.events("s")][:2] == ["silence", "silence"]


@pytest.mark.parametrize(
    ("key", "value", "reason", "kept"),
    [
        (b"s", b"\xc1", "malformed", b"s"),
        (b"s", b"", "malformed", b"s"),
        (b"s", None, "no_value", b"s"),
        (b"s", encode_record(audio(4))[:-1], "malformed", b"s"),
        (None, encode_record(audio(4)), "no_key", None),
        (b"", encode_record(audio(4)), "no_key", None),
        (b"\xff", encode_record(audio(4)), "key_not_utf8", None),
        (b"k" * 257, encode_record(audio(4)), "key_too_long", None),
        (b"s", encode_record(Audio(4, 6400, b"odd")), "payload_alignment", b"s"),
        (b"s", encode_record(Audio(4, 2**60, b"\0\0")), "position_out_of_range", b"s"),
    ],
)
def test_bad_records_are_rejected_with_their_key_and_harm_nobody(key, value, reason, kept):
    harness = Harness().send("other", start(), *speech(2)).send("s", start(), *speech(4))
    harness.raw(key, value)
    harness.send("s", *speech(4, first=4), End()).send("other", *speech(2, first=2), End()).step()
    assert harness.out.rejects == [(58, kept, reason)]
    assert harness.count("records_rejected_total", reason=reason) == 1
    assert harness.out.events("s")[-1].duration == 800
    assert harness.out.events("other")[-1].duration == 400
    assert harness.out.events("s")[-1].gap_ms == harness.out.events("other")[-1].gap_ms == 0


def test_a_rejected_record_begins_no_stream():
    harness = Harness().send("s", Audio(0, 0, b"odd"), Flush("f")).step()
    assert harness.out.reasons == ["payload_alignment", "not_started"]
    assert (harness.partition.open_streams, harness.partition.resume_offset) == (0, 52)
    assert harness.count("streams_started_total") == 0


def test_a_missing_tail_at_the_end_is_a_gap_before_the_end():
    for position, gaps in [(8000, [(400, 500)]), (32_000, [(400, 2000)])]:
        harness = Harness().send("s", start(), *speech(4), End(position=position)).step()
        events = harness.out.events("s")
        assert kinds(events) == [Utterance, Gap, StreamEnd]
        assert [(e.start, e.end) for e in events if isinstance(e, Gap)] == gaps
        assert (events[-1].duration, events[-1].gap_ms) == (position // 16, gaps[0][1] - 400)
        assert harness.count("gap_audio_seconds_total") == (gaps[0][1] - 400) / 1000
        assert [e.head.number for e in events] == [0, 1, 2]
        assert harness.partition.resume_offset == harness.offset


def test_what_was_complete_before_the_restart_is_passed_over_silently():
    """Resumed at 50, where a live stream began; records up to 60 were read before."""
    complete = start(endpoint_ms=800, max_utterance_ms=30_000, idle_ms=60_000, look_ahead=0, decoder="rnnt")
    row = Row("live", 50, "n", complete, SessionLimits(2000, 1000, 60_000), Progress(), "fake")
    harness = Harness(Table(read=60, live={row_key("live", 3, 50): row})).send("live", start())
    harness.send("old", audio(7, "o"), Flush("f", "o"), End("o"), audio(8), Flush("f"), End())
    harness.send("live", *speech(2)).step()
    assert (harness.offset, harness.out.rejects) == (59, [])
    assert harness.partition.open_streams == 1
    harness.send("old", audio(9, "o")).send("old", audio(9, "o"), End())
    assert harness.out.rejects == [(60, b"old", "not_started"), (61, b"old", "not_started")]
    assert harness.send("live", End()).step().out.events("live")[-1].duration == 200


def test_the_resume_offset_is_the_first_record_of_the_oldest_stream_not_yet_complete():
    harness = Harness()
    assert harness.partition.resume_offset == 50
    harness.send("a", start(), *speech(2)).send("b", start(), *speech(2)).step()
    assert (harness.partition.resume_offset, harness.partition.next_offset) == (50, 56)
    harness.send("a", End())
    assert harness.partition.resume_offset == 50  # its last events are not out
    harness.step()
    assert harness.partition.resume_offset == 53
    harness.send("b", End()).step()
    assert harness.partition.resume_offset == harness.partition.next_offset == 58


def test_a_silent_stream_is_ended_when_it_was_idle_for_long():
    harness = Harness(idle_ms=60_000).send("s", start(), *speech(4)).send("t", start()).send("u", start(idle_ms=90_000))
    harness.partition.end_idle_streams()
    assert harness.partition.open_streams == 3
    for live in harness.partition.live:
        live.touched -= 61
    harness.send("s", start())  # sent again: a record all the same
    harness.partition.end_idle_streams()
    harness.step()
    assert [e.reason for e in harness.out.events("t")] == ["idle"]
    assert harness.partition.open_streams == 2
    for live in harness.partition.live:
        live.touched -= 61
    harness.partition.end_idle_streams()
    harness.step()
    assert [e.reason for e in harness.out.events("s")] == ["idle", "idle"]
    assert harness.out.events("u")[-1].head.offsets == (56, 56)
    harness.send("s", audio(9))
    assert harness.out.reasons == ["after_end"]


def test_a_dropped_partition_leaves_no_slot_taken_and_tells_nothing_more():
    harness = Harness().send("s", start(), *speech(8)).send("t", start(), *speech(2))
    batch = harness.scheduler.take()
    harness.partition.drop()
    for work in batch.work:
        harness.partition.heard(work.feed.owner, Tokens(heard=4), False)
    harness.scheduler.done(batch)
    harness.step()
    assert harness.out.told_items == []
    assert (harness.scheduler.occupancy().active, harness.scheduler.waiting_bytes) == (0, 0)
    assert (harness.partition.open_streams, harness.partition.oldest_unheard()) == (0, None)


def test_the_oldest_record_not_yet_through_the_engine():
    harness = Harness().send("s", start(), *speech(2))
    assert harness.partition.oldest_unheard() == 10_051
    harness.step()  # took 1,480 of the first record's 1,600 samples
    assert harness.partition.oldest_unheard() == 10_051
    harness.send("s", audio(2)).step()  # took 4,040: all but the end of the third
    assert harness.partition.oldest_unheard() == 10_053
    harness.send("s", Flush("f")).step()
    assert harness.partition.oldest_unheard() is None


def test_a_restart_costs_what_was_heard_since_the_checkpoint_however_much_waits():
    harness = Harness().send("s", start(), *speech(20, "n"))
    (live,) = harness.partition.live
    assert (live.replay_ms, live.unsaved) == (0, True)  # nothing to compute again, all to be read again
    live.snapshot(None, None)  # amid the backlog
    live.saved("key", harness.offset)
    assert (live.replay_ms, live.unsaved) == (0, False)
    harness.step()
    assert live.replay_ms > 1800  # all but what lies past the last chunk
    live.snapshot(None, None)
    live.saved("later", harness.offset)
    harness.send("s", audio(20), Flush("f")).step()
    assert 100 <= live.replay_ms < 300
    assert live.unsaved
