"""Long runs: many bad records, long and silent calls, many short ones, twice what the engine can take.

`make test` runs them for seconds, `make long` (TRUNKLINE_TESTS_LONG=1) for as long as their names say. Memory must not
grow in any of them, and the words stay those of short runs.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice

import msgpack
import numpy as np
import pytest

from bench.looped import REFERENCE, Figures, Loop, expected, figures, growth
from bench.overload import Overload
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import own_topics
from tests.integration.conftest import ONE_THREAD
from tests.integration.sending import Sender, audio, spoken, start, stream_of
from tests.integration.support import CALLS, MODEL, Heard, Outputs, unique, without_confidence
from wire import Audio, End, Flush, Record, Start, StreamEnd, Topics, Utterance, encode_record

LONG = os.environ.get("TRUNKLINE_TESTS_LONG") == "1"
pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(1800 if LONG else 300)]

HOURS = 4 if LONG else 1 / 6
SILENT_S = 3600 if LONG else 600
SHORT_CALLS = 10_000 if LONG else 1_000
BAD_RECORDS = 100_000
GROWTH_MB = 25
# Hundreds of calls that open and end at once move the heap by 20 MB up or down, and it reaches its level after some
# thousand of them: 10,000 are held to what all else is held to.
SHORT_GROWTH_MB = GROWTH_MB if LONG else 50
BAD_GROWTH_MB = 5  # 80,000 records more, a fraction of a byte each
# so little that what waits fills it within the first seconds, and memory must then be flat
SETTINGS = ONE_THREAD | {"batching.memory_mb": 16}


class Runs:
    """One worker with topics of its own, followed by a reader that knows all it told."""

    def __init__(self, servers: str, topics: Topics, worker: LocalWorker) -> None:
        self.servers, self.topics, self.worker = servers, topics, worker
        self.outputs = Outputs(servers, topics)
        self.sender = Sender(servers, topics.audio)
        self._began = time.monotonic()

    def send(self, stream: str, records: Iterable[Record], at_once: int = 500) -> None:
        """Records that need not be in memory all at once."""
        rest = iter(records)
        while piece := list(islice(rest, at_once)):
            self.sender.send(stream, piece)

    def look(self) -> Figures:
        return figures(self.worker, time.monotonic() - self._began)

    def watch(self, done: Callable[[], object], what: str, timeout_s: float) -> list[Figures]:
        """What the worker says of itself, twice a second, until `done`."""
        curve = [self.look()]

        def looked() -> bool:
            if time.monotonic() - self._began - curve[-1].at > 0.5:
                curve.append(self.look())
            return bool(done())

        self.outputs.until(looked, what, timeout_s)
        curve.append(self.look())
        return curve

    def ended(self, *streams: str) -> Callable[[], bool]:
        return lambda: not self.outputs.open(streams)

    def heard(self, stream: str) -> Heard:
        return self.outputs.heard(stream, 5)

    def close(self) -> None:
        self.sender.close()
        self.outputs.close()


@pytest.fixture(scope="module")
def runs(kafka: str, zygote: Zygote) -> Iterator[Runs]:
    with own_topics(kafka) as topics:
        with LocalWorker(kafka, topics, MODEL, unique("long"), SETTINGS, zygote=zygote) as worker:
            made = Runs(kafka, topics, worker)
            yield made
            made.close()


def shown(name: str, curve: Sequence[Figures]) -> None:
    """The memory curve, for `pytest -s`, `make long` and a failure's report."""
    few = [*curve[:: max(1, len(curve) // 10)], curve[-1]]
    print(f"\n{name}: " + ", ".join(f"{f.at - curve[0].at:.0f} s {f.heard:.0f} s {f.resident:.1f} MB" for f in few))


@pytest.fixture(scope="module")
def looped(runs: Runs) -> tuple[Loop, list]:
    """Speech in a loop, and what a few passes of it are heard as."""
    loop = Loop(CALLS / "call-05.flac", 0)
    runs.send("loop-short", loop.records(REFERENCE))
    runs.watch(runs.ended("loop-short"), "the short loop", 120)
    return loop, loop.said(runs.heard("loop-short").utterances, REFERENCE)


def test_a_long_call(runs: Runs, looped: tuple[Loop, list]) -> None:
    """The same words again and again, hours on, as in the short run of the loop."""
    loop, short = looped
    assert sum(map(len, short)) > 100
    passes = int(HOURS * 3_600_000 / loop.ms)
    runs.send("loop-long", loop.records(passes))
    curve = runs.watch(runs.ended("loop-long"), "the end of the long call", 1500)
    shown(f"a call of {HOURS:.2g} hours", curve)
    heard = runs.heard("loop-long")
    assert loop.said(heard.utterances, passes) == expected(short, passes)
    assert (heard.end.duration, heard.end.gap_ms) == (passes * loop.ms, 0)
    assert growth(curve) < GROWTH_MB, curve


def test_long_silence(runs: Runs) -> None:
    """Speech, digital silence, the speech again: as with less silence, the same words so much later."""
    speech, short = 28, 140  # seconds; whole chunks of 560 ms, and more silence than the left context of all layers
    silent = SILENT_S // speech * speech
    samples, rate = spoken("call-02", 0)
    samples = samples[: rate * speech]

    def records(seconds: int) -> Iterator[Record]:
        yield start(rate, "mulaw")
        sequence = first = 0
        for part in (samples, np.zeros(seconds * rate, np.int16), samples):
            yield from (made := audio(part, rate, "mulaw", first=first, sequence=sequence, ms=1000))
            sequence, first = sequence + len(made), first + len(part)
        yield End("one", first)

    runs.send("silent-short", records(short))
    runs.watch(runs.ended("silent-short"), "the end of the shorter call", 60)
    runs.send("silent", records(silent))
    curve = runs.watch(runs.ended("silent"), "the end of the silent call", 300)
    shown(f"a call with {silent} s of silence", curve)
    heard, twin = runs.heard("silent"), runs.heard("silent-short")
    middle, more = (speech + short // 2) * 1000, (silent - short) * 1000
    said = [(word.text, word.start, word.end) for word in heard.words]
    wanted = [(w.text, w.start, w.end) for w in twin.words if w.start < middle]
    assert len(wanted) > 20
    wanted += [(w.text, w.start + more, w.end + more) for w in twin.words if w.start >= middle]
    assert said == wanted
    assert not [w for w in said if (speech + 2) * 1000 < w[1] < (speech + silent) * 1000]
    assert heard.end.duration == (2 * speech + silent) * 1000
    assert heard.end.gap_ms == 0
    assert growth(curve) < GROWTH_MB, curve


def test_many_short_calls(runs: Runs) -> None:
    """Calls of one second: each ends once, and the same audio has the same words."""
    samples, rate = spoken("call-05", 0)
    pieces = [samples[second * rate : (second + 1) * rate] for second in range(2, 22)]
    bodies = [stream_of(piece, rate, "mulaw")[1:] for piece in pieces]
    names = [f"short-{index}" for index in range(SHORT_CALLS)]
    curve = [runs.look()]
    for at in range(0, len(names), 500):
        few = names[at : at + 500]
        for name, body in zip(few, cycle(bodies), strict=False):
            runs.sender.put(name, [Start("one", "mulaw", rate), *body])
        runs.sender.flush()
        curve += runs.watch(lambda at=at: len(runs.outputs.open(names[: at + 500])) < 500, "most of the calls", 120)
    curve += runs.watch(runs.ended(*names), "the end of all calls", 120)
    shown(f"{SHORT_CALLS} calls", curve)
    said: dict[str, list] = {name: [] for name in names}
    ends = dict.fromkeys(names, 0)
    for event in (out.event for out in runs.outputs.finals if out.event.head.stream in ends):
        if isinstance(event, Utterance):
            said[event.head.stream] += [(word.text, word.start, word.end) for word in event.words]
        elif isinstance(event, StreamEnd):
            assert event.duration == 1000
            ends[event.head.stream] += 1
    assert set(ends.values()) == {1}
    assert sum(bool(words) for words in said.values()) >= SHORT_CALLS // 4
    for name, twin in zip(names, cycle(names[: len(pieces)]), strict=False):
        assert said[name] == said[twin], (name, twin)
    assert growth(curve) < SHORT_GROWTH_MB, curve


def test_many_bad_records(runs: Runs) -> None:
    """Memory is the same after the first fifth and after all; each is rejected exactly once; a good stream goes on."""
    samples, rate = spoken("call-03", 0)
    good = stream_of(samples, rate)  # of which the end comes after all that is bad
    runs.send("good-alone", good)
    runs.watch(runs.ended("good-alone"), "the good stream alone", 60)
    piece = encode_record(Audio(0, 0, bytes(320), "one"))
    begins = msgpack.packb(msgpack.unpackb(encode_record(start(rate))) | {"sample_rate": 1})
    bad: list[tuple[bytes | None, bytes | None]] = [
        (b"good", b"\xc1" * 200),
        (b"good", b"\xc1" * 5_000),
        (b"good", None),
        (b"good", msgpack.packb(msgpack.unpackb(piece) | {"v": 2})),
        (b"good", encode_record(Audio(0, 0, bytes(321), "one"))),
        (b"good", encode_record(Flush("f", "another"))),
        (b"\xff", piece),
        (None, piece),
        (b"nobody", piece),
        (b"nobody", encode_record(End())),
        (b"another-%d", piece),
        (b"another-%d", begins),
    ]

    def keyed(key: bytes | None, index: int) -> bytes | None:
        return key and key.replace(b"%d", b"%d" % index)

    rejects = Counter[str]()
    kept = len(runs.outputs.rejected)

    def rejected() -> int:
        """How many different records so far; what is counted need not stay in this process."""
        rejects.update(out.headers["offset"] for out in runs.outputs.rejected[kept:])
        del runs.outputs.rejected[kept:]
        return len(rejects)

    curve: list[Figures] = []
    parts = 10
    size = len(good) // parts
    for part in range(parts):
        runs.sender.send("good", good[part * size : (part + 1) * size], 0)
        for index, (key, value) in enumerate(islice(cycle(bad), BAD_RECORDS // parts), part * BAD_RECORDS // parts):
            runs.sender.put(keyed(key, index), [value], 0)
        runs.sender.flush()
        wanted = (part + 1) * BAD_RECORDS // parts
        curve += runs.watch(lambda wanted=wanted: rejected() >= wanted, f"{wanted} rejected records", 120)
        if part == 1:
            after_20_000 = len(curve) - 1
    runs.sender.send("good", good[parts * size :] or good[-1:], 0)
    runs.watch(runs.ended("good"), "the good stream", 60)
    runs.outputs.poll(0.5)
    rejected()
    shown(f"{BAD_RECORDS} bad records", curve)
    assert len(rejects) == BAD_RECORDS
    assert set(rejects.values()) == {1}
    one, other = (runs.heard(name).utterances for name in ("good", "good-alone"))
    assert [without_confidence(u).words for u in one] == [without_confidence(u).words for u in other]
    assert max(figure.resident for figure in curve[after_20_000:]) - curve[after_20_000].resident < BAD_GROWTH_MB, curve


def test_twice_what_the_engine_takes(kafka: str, zygote: Zygote) -> None:
    """For 20 seconds, or two minutes: the lag grows and goes back to zero, and no word is lost."""
    with own_topics(kafka) as topics:
        with LocalWorker(kafka, topics, MODEL, unique("overload"), SETTINGS, zygote=zygote) as worker:
            run = Overload(kafka, topics, worker, 8)
            result = run.run(120 if LONG else 10, 2.0)
            run.close()
    shown(f"{result.sent_speed:.0f} s of audio a second at an engine of {result.engine_speed:.0f}", result.curve)
    assert result.sent_speed > 1.3 * result.engine_speed
    assert result.most_lag_s > 1
    assert result.last_lag_s == 0
    assert (result.lost, result.words > 100) == (0, True)
    assert result.growth_mb < GROWTH_MB, result.curve
