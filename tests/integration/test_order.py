"""Records that come swapped, twice, late or never."""

import asyncio
import re
import time
from collections import Counter
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np
import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.producer.message_accumulator import BatchBuilder

from producer import Call, Producer
from producer.connection import Connection
from tests.integration.conftest import Service
from tests.integration.oracle import Oracle
from tests.integration.sending import PCM, audio, spoken, start
from tests.integration.support import Heard, without_confidence
from wire import Audio, End, Final, Gap, Record

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

CALL = ("call-03", 1)


@pytest.fixture(scope="module")
def speech() -> tuple[PCM, int]:
    return spoken(*CALL)


@pytest.fixture(scope="module")
def straight(service: Service, speech: tuple[PCM, int], oracle: Oracle) -> Heard:
    samples, rate = speech
    heard = play(service, "straight", audio(samples, rate), len(samples))
    oracle.check(heard, samples, rate)
    return heard


def swapped(records: list[Audio]) -> list[Record]:
    return [record for pair in zip(records[1::2], records[::2], strict=False) for record in pair] + (
        records[-1:] if len(records) % 2 else []
    )


def duplicated(records: list[Audio]) -> list[Record]:
    return [copy for record in records for copy in (record, record)] + records[:50]


def delayed(records: list[Audio]) -> list[Record]:
    """Every thirtieth record comes 1.5 s late; the window is 2 s."""
    late = sorted(enumerate(records), key=lambda item: item[0] + (15.5 if item[0] % 30 == 10 else 0))
    return [record for _, record in late]


def delayed_beyond(records: list[Audio]) -> list[Record]:
    """Every thirtieth record comes 3 s late."""
    late = sorted(enumerate(records), key=lambda item: item[0] + (30.5 if item[0] % 30 == 10 else 0))
    return [record for _, record in late]


def swapped_beyond(records: list[Audio]) -> list[Record]:
    """The same 100 ms change places with those 3 s on."""
    made: list[Record] = list(records)
    for index in range(10, len(made) - 40, 60):
        made[index], made[index + 30] = made[index + 30], made[index]
    return made


def recut(records: list[Audio]) -> list[Record]:
    """Every third record comes again later, as one piece with its two neighbours."""
    made: list[Record] = []
    for index in range(0, len(records) - 2, 3):
        a, b, c = records[index : index + 3]
        made += [a, b, c, Audio(b.sequence, a.position, a.payload + b.payload + c.payload, "one")]
    return made + records[len(records) - len(records) % 3 :]


@pytest.mark.parametrize("disorder", [swapped, duplicated, delayed, recut], ids=lambda f: f.__name__)
def test_disorder_within_the_window_changes_nothing(
    disorder, service: Service, speech: tuple[PCM, int], straight: Heard
) -> None:
    samples, rate = speech
    heard = play(service, disorder.__name__, disorder(audio(samples, rate)), len(samples))
    assert told(heard) == told(straight)
    assert heard.end.gap_ms == 0
    assert heard.end.duration == straight.end.duration


@pytest.mark.parametrize("disorder", [delayed_beyond, swapped_beyond], ids=lambda f: f.__name__)
def test_what_comes_later_than_the_window_is_given_up_as_a_gap(
    disorder, service: Service, speech: tuple[PCM, int], oracle: Oracle
) -> None:
    samples, rate = speech
    records = audio(samples, rate)
    arrived = disorder(records)
    step = 30 if disorder is delayed_beyond else 60
    late = [i for i in range(10, len(records) - (0 if step == 30 else 40), step) if arrived.index(records[i]) - i >= 20]
    assert len(late) >= 3
    before = service.worker.metric("trunkline_records_duplicate_total")
    heard = play(service, disorder.__name__, arrived, len(samples))
    assert [(gap.start, gap.end) for gap in heard.gaps] == [(i * 100, i * 100 + 100) for i in late]
    assert heard.end.gap_ms == 100 * len(late)
    assert heard.end.duration == len(samples) * 1000 // rate
    assert service.worker.metric("trunkline_records_duplicate_total") - before == len(late)  # when they come at last
    silenced = samples.copy()
    for i in late:
        silenced[i * rate // 10 : (i + 1) * rate // 10] = 0
    oracle.check(heard, silenced, rate)


@pytest.mark.parametrize("clock", [1, 4_102_444_800_000], ids=["1970", "2100"])
def test_a_producer_with_a_wrong_clock_changes_nothing(
    clock: int, service: Service, speech: tuple[PCM, int], straight: Heard
) -> None:
    samples, rate = speech
    stream = f"clock-{clock}"
    delays = ("trunkline_partial_delay_seconds", "trunkline_final_delay_seconds")
    before = {name: service.worker.metric(f"{name}_sum") for name in delays}
    began = time.time() * 1000
    records = [start(16000), *audio(samples, rate), End("one", len(samples))]
    service.sender.send(stream, records, time=clock)
    heard = service.outputs.heard(stream)
    assert told(heard) == told(straight)
    done = time.time() * 1000
    service.outputs.until(lambda: stream in {out.event.head.stream for out in service.outputs.partials}, "partials")
    outs = [*heard.outs, *(out for out in service.outputs.partials if out.event.head.stream == stream)]
    assert all(began - 1000 <= int(out.headers["input-timestamp"]) <= done + 1000 for out in outs)
    spent = (done - began) / 1000 + 1
    for name in delays:
        assert 0 <= service.worker.metric(f"{name}_sum") - before[name] <= spent * len(outs)
    assert 0 <= service.worker.metric("trunkline_lag_seconds") <= spent


@pytest.mark.parametrize("told_by", ["later audio", "sequence"])
def test_an_hour_without_audio_moves_the_clock(
    told_by: str, service: Service, speech: tuple[PCM, int], oracle: Oracle
) -> None:
    samples, rate = speech
    cut, hour = 7 * rate, 3600 * rate
    before = audio(samples[:cut], rate)
    sequence = len(before) if told_by == "sequence" else len(before) + 36_000
    after = audio(samples[cut:], rate, first=cut + hour, sequence=sequence)
    heard = play(service, f"hour-{told_by}", [*before, *after], len(samples) + hour)
    assert [(gap.start, gap.end) for gap in heard.gaps] == [(7_000, 3_607_000)]
    assert heard.end.duration == 3_600_000 + len(samples) * 1000 // rate
    whole = play(service, f"hour-{told_by}-alone", audio(samples[cut:], rate), len(samples) - cut)
    late = [word for word in heard.words if word.start >= 3_607_000]
    assert [(w.text, w.start - 3_607_000, w.end - 3_607_000) for w in late] == [
        (w.text, w.start, w.end) for w in whole.words
    ]
    early = [u for u in heard.utterances if u.end <= 7_000]
    assert " ".join(u.text for u in early) == oracle.text(samples[:cut], rate)


def test_what_a_producer_sends_again_is_heard_once(
    service: Service, speech: tuple[PCM, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker has every batch, but its answer to those with a start, a flush or an end is lost at first."""
    samples, rate = speech

    async def call(stream: str) -> None:
        async with Producer(service.servers, topic=service.topics.audio, delivery_timeout=30) as producer:
            async with Call(producer, stream, sample_rate=rate) as call:
                for number, at in enumerate(range(0, len(samples), rate // 10)):
                    await call.send(samples[at : at + rate // 10])
                    if number % 40 == 25:
                        await call.flush(f"flush {number}")
                    await asyncio.sleep(0.01)

    asyncio.run(call("sent-once"))
    once = service.outputs.heard("sent-once")
    rejected, duplicates = len(service.outputs.rejected), service.worker.metric("trunkline_records_duplicate_total")

    sent, marks, lost = Connection.send, set[bytes](), Counter[str]()

    async def unanswered(self: Connection, batch: BatchBuilder, partition: int) -> asyncio.Future[None]:
        confirmed = await sent(self, batch, partition)
        await confirmed
        fresh = set(re.findall(rb"type\xa5start|flush \d+|type\xa3end", bytes(batch._buffer))) - marks
        if not fresh:
            return confirmed
        marks.update(fresh)
        lost["records"] += batch.record_count()
        raise KafkaConnectionError("the answer was lost")

    monkeypatch.setattr(Connection, "send", unanswered)
    asyncio.run(call("sent-again"))
    again = service.outputs.heard("sent-again")
    assert len(marks) == 2 + len(once.markers) > 4
    worker = service.worker
    service.outputs.until(
        lambda: worker.metric("trunkline_records_duplicate_total") - duplicates >= lost["records"],
        "the records again",
        10,
    )
    assert worker.metric("trunkline_records_duplicate_total") - duplicates == lost["records"]
    assert [placeless(event) for event in again.events] == [placeless(event) for event in once.events]
    assert len(service.outputs.rejected) == rejected


def placeless(event: Final) -> Final:
    """Without what says where its records lay."""
    return replace(without_confidence(event), head=replace(event.head, id="", stream="", offsets=(0, 0)))


def test_a_short_hole_is_silence_and_a_gap_event(service: Service, speech: tuple[PCM, int], oracle: Oracle) -> None:
    samples, rate = speech
    first = middle_of_a_word(samples, rate)
    records = audio(samples, rate)
    lost = range(first * 10, first * 10 + 5)
    heard = play(service, "hole-short", [r for r in records if r.sequence not in lost], len(samples))
    assert [(gap.start, gap.end) for gap in heard.gaps] == [(first * 1000, first * 1000 + 500)]
    assert heard.end.gap_ms == 500
    assert heard.end.duration == len(samples) * 1000 // rate
    silenced = samples.copy()
    silenced[first * rate : first * rate + rate // 2] = 0
    oracle.check(heard, silenced, rate)


@pytest.mark.parametrize("told_by", ["later audio", "sequence"])
def test_a_long_hole_moves_the_clock(
    told_by: str, service: Service, speech: tuple[PCM, int], straight: Heard, oracle: Oracle
) -> None:
    """The producer may know of the hole (its sequence runs on) or not."""
    samples, rate = speech
    begin, end = 7 * rate, 10 * rate
    before = audio(samples[:begin], rate)
    sequence = len(before) if told_by == "sequence" else end * 10 // rate
    records = [*before, *audio(samples[end:], rate, first=end, sequence=sequence)]
    heard = play(service, f"hole-long-{told_by}", records, len(samples))
    assert [(gap.start, gap.end) for gap in heard.gaps] == [(7000, 10000)]
    at = heard.events.index(heard.gaps[0])
    early = [u for u in heard.utterances if u.head.number < at]
    after = [u for u in heard.utterances if u.head.number > at]
    assert " ".join(u.text for u in early) == oracle.text(samples[:begin], rate)
    assert " ".join(u.text for u in after) == oracle.text(samples[end:], rate)
    assert all(u.end <= 7000 for u in early)
    assert all(u.start >= 10000 for u in after)
    assert (heard.end.gap_ms, heard.end.duration) == (3000, len(samples) * 1000 // rate)

    known = [word for word in straight.words if word.start >= 11_000]
    again = [word for u in after for word in u.words]
    matcher = SequenceMatcher(None, [word.text for word in known], [word.text for word in again], autojunk=False)
    same = [
        (known[block.a + i], again[block.b + i]) for block in matcher.get_matching_blocks() for i in range(block.size)
    ]
    assert len(same) > 0.7 * len(known)
    assert max(abs(word.start - twin.start) for word, twin in same) <= 320


def test_a_missing_tail_is_a_gap(service: Service, speech: tuple[PCM, int], oracle: Oracle) -> None:
    samples, rate = speech
    sent = 6 * rate
    heard = play(service, "tail", audio(samples[:sent], rate), sent + 5 * rate)
    assert [(gap.start, gap.end) for gap in heard.gaps] == [(6000, 11000)]
    assert isinstance(heard.events[-2], Gap)
    assert heard.text == oracle.text(samples[:sent], rate)
    assert (heard.end.gap_ms, heard.end.duration) == (5000, 11000)


def play(service: Service, stream: str, records: list[Record], position: int) -> Heard:
    service.sender.send(stream, [start(16000), *records, End("one", position)])
    return service.outputs.heard(stream)


def told(heard: Heard) -> list:
    return [(u.text, u.words, u.start, u.end, u.reason) for u in map(without_confidence, heard.utterances)]


def middle_of_a_word(samples: PCM, rate: int) -> int:
    """The second of the recording with the most energy in its first half."""
    seconds = samples[: len(samples) // rate * rate].reshape(-1, rate)[:, : rate // 2].astype(np.float64)
    return int((seconds**2).sum(axis=1).argmax())
