"""Real speech in a loop: streams of any length whose words are known from a short one.

A loop is a whole number of the engine's chunks, so that every pass but the first few is heard in the same state: the
same words at times that are a loop apart. The last pass has no audio behind it and may differ, too.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import soundfile

from demo.score import CALLS
from deploy.worker import LocalWorker
from producer.encode import encode
from wire import Audio, End, Record, Start, Utterance

CHUNK_MS = 560  # of the default look-ahead; the demo model's frames are 80 ms
SETTLED = 3  # passes until what a pass is heard as repeats; the left context of all layers is shorter
REFERENCE = SETTLED + 2  # passes of a stream that shows all there is
NONCE = "loop"

Said = tuple[str, int, int]  # text; start and end in ms since the pass began


class Loop:
    """One channel of a demo call, as G.711."""

    def __init__(self, call: Path, channel: int) -> None:
        samples, self.rate = soundfile.read(call, dtype="int16", always_2d=True)
        size = self.rate * CHUNK_MS // 1000
        whole = np.ascontiguousarray(samples[: len(samples) // size * size, channel])
        self.payload = encode(whole, "mulaw")
        self.ms = len(whole) * 1000 // self.rate

    def records(self, passes: int, record_ms: int = 1000) -> Iterator[Record]:
        """A whole stream."""
        size = self.rate * record_ms // 1000
        total = passes * len(self.payload)
        twice = self.payload * 2
        yield Start(NONCE, "mulaw", self.rate)
        for sequence, position in enumerate(range(0, total, size)):
            at = position % len(self.payload)
            yield Audio(sequence, position, twice[at : at + min(size, total - position)], NONCE)
        yield End(NONCE, total)

    def said(self, utterances: Sequence[Utterance], passes: int) -> list[list[Said]]:
        """The words of each pass."""
        found: list[list[Said]] = [[] for _ in range(passes)]
        for word in (word for utterance in utterances for word in utterance.words):
            number = min(word.start // self.ms, passes - 1)
            found[number].append((word.text, word.start - number * self.ms, word.end - number * self.ms))
        return found


def expected(reference: list[list[Said]], passes: int) -> list[list[Said]]:
    """What `passes` passes are heard as, given those of a stream of REFERENCE passes."""
    assert len(reference) == REFERENCE
    assert passes >= REFERENCE
    first, settled, last = reference[:SETTLED], reference[SETTLED], reference[-1]
    return [*first, *[settled] * (passes - SETTLED - 1), last]


def loops(count: int) -> list[Loop]:
    """One of each of the first channels of the demo calls."""
    calls = sorted(CALLS.glob("*.flac"))
    return list(islice((Loop(call, channel) for call in calls for channel in (0, 1)), count))


@dataclass(frozen=True)
class Figures:
    """A worker at one moment. Seconds of audio, seconds, megabytes."""

    at: float  # since the start of whatever is measured
    heard: float  # audio through the engine since the worker's start
    waiting: float  # audio in memory
    lag: float  # of the partition with the largest
    resident: float


def figures(worker: LocalWorker, at: float) -> Figures:
    """One look at the worker's /metrics."""
    from prometheus_client.parser import text_string_to_metric_families

    values: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(worker.get("/metrics")):
        for sample in family.samples:
            values.setdefault(sample.name, []).append(sample.value)
    return Figures(
        at,
        sum(values["trunkline_audio_processed_seconds_total"]),
        sum(values["trunkline_queue_audio_seconds"]),
        max(values.get("trunkline_lag_seconds", [0.0])),
        sum(values["process_resident_memory_bytes"]) / 1e6,
    )


def growth(curve: Sequence[Figures]) -> float:
    """How far resident memory, MB, rose from the second fifth of the audio to the last, by medians."""
    begin, end = curve[0].heard, curve[-1].heard

    def median(low: float, high: float) -> float:
        share = [f.resident for f in curve if low <= (f.heard - begin) / (end - begin) <= high]
        assert share, "nobody looked in that time"
        return statistics.median(share)

    return median(0.8, 1.0) - median(0.2, 0.4)
