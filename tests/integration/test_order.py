"""Records that come swapped, twice, late or never."""

from difflib import SequenceMatcher

import numpy as np
import pytest

from tests.integration.conftest import Service
from tests.integration.oracle import Oracle
from tests.integration.sending import PCM, audio, spoken, start
from tests.integration.support import Heard, without_confidence
from wire import Audio, End, Gap, Record

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
