"""More audio than the engine can take, for minutes: the lag grows, then goes back to zero, and no word is lost.

    python -m bench.overload [--minutes 2] [--streams 12] [--factor 2]

Measures the engine's speed with the same streams, then sends at that speed times the factor, then stops and waits.
Every stream is speech in a loop; its words are compared with those of the short run. Last line: one JSON object.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice

from confluent_kafka import Producer as Client
from rich.console import Console
from rich.table import Table

from bench.looped import REFERENCE, Figures, Loop, Said, expected, figures, growth, loops
from demo.__main__ import MODEL
from deploy.kafka import broker
from deploy.worker import LocalWorker
from tests.conftest import own_topics
from tests.integration.support import Outputs
from wire import Record, Topics, encode_record

SETTINGS: dict[str, object] = {"model.threads": 1, "batching.memory_mb": 16}
LOOK_S = 1.0
BAR = 40


@dataclass(frozen=True)
class Result:
    """`lost`: words that are missing or differ, over all streams. Speeds in seconds of audio a second."""

    engine_speed: float
    sent_speed: float
    streams: int
    audio_s: float
    words: int
    lost: int
    most_lag_s: float
    last_lag_s: float
    drained_s: float  # from the last record to the end of all streams
    growth_mb: float
    curve: list[Figures]


class Overload:
    """Streams of looped speech to one worker's topics."""

    def __init__(self, servers: str, topics: Topics, worker: LocalWorker, streams: int) -> None:
        self._loops = loops(streams)
        self._worker = worker
        self._topic = topics.audio
        self._outputs = Outputs(servers, topics)
        self._client = Client(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "partitioner": "murmur2_random",
                "queue.buffering.max.kbytes": 256_000,
            }
        )
        self._failed: list[object] = []

    def run(self, seconds: float, factor: float, timeout_s: float = 600.0) -> Result:
        """Raises AssertionError when the streams do not end in `timeout_s` after the last record."""
        reference, speed = self._reference()
        pace = factor * speed / len(self._loops)  # of one stream
        length = max(seconds * pace * 1000, REFERENCE * max(loop.ms for loop in self._loops))
        passes = [math.ceil(length / loop.ms) for loop in self._loops]  # all end at about the same time
        names = self._names("overload")
        began = time.monotonic()
        curve = [figures(self._worker, 0.0)]
        plays = list(zip(names, self._loops, passes, strict=True))
        streams = {name: loop.records(count, 500) for name, loop, count in plays}
        sent = 0.0  # of each stream, seconds
        while sum(self._send(name, list(islice(records, 4))) for name, records in streams.items()):
            sent += 2
            self._idle_until(began + sent / pace, curve, began)
        assert self._client.flush(60) == 0
        assert not self._failed, self._failed[0]
        stopped = time.monotonic()
        self._watch(lambda: not self._outputs.open(names), curve, began, timeout_s)
        drained = time.monotonic() - stopped
        self._watch(lambda: curve[-1].lag == 0 and curve[-1].waiting < 1, curve, began, 20)
        words = lost = 0
        for (name, loop, count), short in zip(plays, reference, strict=True):
            for heard, wanted in zip(self._said(name, loop, count), expected(short, count), strict=True):
                words += len(wanted)
                lost += len(set(heard) ^ set(wanted)) or abs(len(heard) - len(wanted))
        audio = sum(loop.ms * count for _, loop, count in plays) / 1000
        return Result(
            engine_speed=speed,
            sent_speed=audio / (stopped - began),
            streams=len(names),
            audio_s=audio,
            words=words,
            lost=lost,
            most_lag_s=max(figure.lag for figure in curve),
            last_lag_s=curve[-1].lag,
            drained_s=drained,
            growth_mb=growth(curve),
            curve=curve,
        )

    def close(self) -> None:
        self._outputs.close()

    def _reference(self) -> tuple[list[list[list[Said]]], float]:
        """The words of a short run, as fast as the engine takes them, and its speed."""
        names = self._names("reference")
        for name, loop in zip(names, self._loops, strict=True):
            self._send(name, list(loop.records(REFERENCE)))
        assert self._client.flush(60) == 0
        curve: list[Figures] = []
        began = time.monotonic()
        self._watch(lambda: not self._outputs.open(names), curve, began, 300, 0.25)
        # at its best for about a second: the first steps are slow, the last ones not full
        speed = max((b.heard - a.heard) / (b.at - a.at) for a, b in zip(curve, curve[4:], strict=False))
        return [self._said(n, loop, REFERENCE) for n, loop in zip(names, self._loops, strict=True)], speed

    def _said(self, name: str, loop: Loop, passes: int) -> list[list[Said]]:
        return loop.said(self._outputs.ended([name])[name].utterances, passes)

    def _names(self, tag: str) -> list[str]:
        return [f"{tag}-{index}" for index in range(len(self._loops))]

    def _send(self, name: str, records: list[Record]) -> int:
        for record in records:
            self._client.produce(self._topic, encode_record(record), key=name, on_delivery=self._note)
        self._client.poll(0)
        return len(records)

    def _note(self, error: object, message: object) -> None:
        if error is not None:
            self._failed.append(error)

    def _idle_until(self, due: float, curve: list[Figures], began: float) -> None:
        while time.monotonic() < due:
            self._look(curve, began)
            self._outputs.poll(min(0.05, max(0.0, due - time.monotonic())))

    def _watch(
        self, done: Callable[[], bool], curve: list[Figures], began: float, timeout_s: float, every_s: float = LOOK_S
    ) -> None:
        deadline = time.monotonic() + timeout_s
        self._look(curve, began, 0)
        while not done():
            assert time.monotonic() < deadline, f"not done in {timeout_s:.0f} s: {curve[-1]}"
            self._outputs.poll(0.05)
            self._look(curve, began, every_s)

    def _look(self, curve: list[Figures], began: float, every_s: float = LOOK_S) -> None:
        now = time.monotonic() - began
        if not curve or now - curve[-1].at >= every_s:
            curve.append(figures(self._worker, now))


@contextmanager
def overload(servers: str, streams: int) -> Iterator[Overload]:
    """A worker of its own with topics of its own."""
    with own_topics(servers) as topics:
        with LocalWorker(servers, topics, MODEL, f"overload-{uuid.uuid4().hex[:8]}", SETTINGS) as worker:
            made = Overload(servers, topics, worker, streams)
            yield made
            made.close()


def show(result: Result, console: Console) -> None:
    table = Table(title="lag over time")
    for name in ("s", "heard, s of audio", "waiting, s of audio", "memory, MB", "lag, s"):
        table.add_column(name, justify="right")
    table.add_column("", min_width=BAR)
    most = max(result.most_lag_s, 1e-9)
    for figure in result.curve[:: max(1, len(result.curve) // 30)] + result.curve[-1:]:
        bar = "#" * round(BAR * figure.lag / most)
        cells = (figure.at, figure.heard, figure.waiting, figure.resident, figure.lag)
        table.add_row(*(f"{cell:.1f}" for cell in cells), bar)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--factor", type=float, default=2.0)
    options = parser.parse_args()
    console = Console(width=140)
    with broker() as servers, overload(servers, options.streams) as bench:
        result = bench.run(options.minutes * 60, options.factor)
    show(result, console)
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(json.dumps({name: value for name, value in asdict(result).items() if name != "curve"}))
    return 0 if result.lost == 0 and result.last_lag_s == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
