"""Audio seconds per second through Kafka and one worker, or two, when more waits than they take."""

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from bench.looped import Figures, Loop, figures
from demo.__main__ import MODEL
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import own_topics
from tests.integration.sending import Sender
from wire import Audio, Record, Topics

SETTINGS: dict[str, object] = {"model.threads": 1, "batching.memory_mb": 32}  # so that reading goes on all the time
LOOK_S = 0.25
MIDDLE = (0.15, 0.85)  # of the audio: before, the first steps; after it, batches that are not full
TIMEOUT_S = 300.0
RECORD_MS = 100


class Stage:
    """Topics of their own, streams on them, and workers to come."""

    def __init__(
        self, servers: str, topics: Topics, zygote: Zygote, streams: Sequence[Loop], settings: Mapping[str, object]
    ) -> None:
        self._servers = servers
        self._topics = topics
        self._zygote = zygote
        self._loops = streams
        self._group = f"service-{uuid.uuid4().hex[:8]}"
        self._settings = {**SETTINGS, **settings}
        self._records: list[Iterator[Record]] = []

    def say(self, seconds: float) -> float:
        """The next so many seconds of each stream, in the order in which they would come; returns all audio, s."""
        if not self._records:
            self._records = [loop.records(10**6, RECORD_MS) for loop in self._loops]
        sender = Sender(self._servers, self._topics.audio)
        for _ in range(int(seconds * 1000) // RECORD_MS):
            for number, records in enumerate(self._records):
                record = next(records)
                told = [record] if isinstance(record, Audio) else [record, next(records)]
                sender.put(f"stream-{number}", told, number % 4)
        sender.flush()
        sender.close()
        return int(seconds * 1000) // RECORD_MS * RECORD_MS / 1000 * len(self._loops)

    def worker(self) -> LocalWorker:
        return LocalWorker(self._servers, self._topics, MODEL, self._group, self._settings, zygote=self._zygote)


@contextmanager
def stage(
    servers: str, zygote: Zygote, streams: Sequence[Loop], settings: Mapping[str, object] | None = None
) -> Iterator[Stage]:
    with own_topics(servers) as topics:
        yield Stage(servers, topics, zygote, streams, settings or {})


def saturated(
    servers: str,
    zygote: Zygote,
    streams: Sequence[Loop],
    seconds: float,
    settings: Mapping[str, object] | None = None,
    workers: int = 1,
) -> float:
    """Speed at which workers take audio that is there before they are."""
    with stage(servers, zygote, streams, settings) as it, ExitStack() as stack:
        audio = it.say(seconds)
        running = [it.worker() for _ in range(workers)]
        for worker in running:
            worker.start(wait=False)
            stack.callback(worker.kill)
        for worker in running:
            worker.wait_ready()
        return slope(_curve(running, 0.97 * audio), audio)


def caught_up(servers: str, zygote: Zygote, streams: Sequence[Loop], heard_s: float, missed_s: float) -> float:
    """Speed at which the heir of a worker stopped in the middle of all calls takes what came meanwhile, and replays."""
    with stage(servers, zygote, streams, {}) as it, ExitStack() as stack:
        before = it.say(heard_s)
        first = it.worker()
        first.start()
        stack.callback(first.kill)
        _curve([first], 0.9 * before)
        first.stop()
        missed = it.say(missed_s)
        heir = it.worker()
        heir.start(wait=False)
        stack.callback(heir.kill)
        heir.wait_ready()
        return slope(_curve([heir], 0.97 * (missed + before)), missed + before)


def _curve(workers: Sequence[LocalWorker], until: float) -> list[tuple[float, float]]:
    """Time and audio heard by all workers, s, until so much is."""
    began = time.monotonic()
    curve: list[tuple[float, float]] = []
    while not curve or curve[-1][1] < until:
        looks: list[Figures] = [figures(worker, time.monotonic() - began) for worker in workers]
        curve.append((time.monotonic() - began, sum(look.heard for look in looks)))
        if time.monotonic() - began > TIMEOUT_S:
            raise AssertionError(f"{curve[-1][1]:.0f} of {until:.0f} s heard in {TIMEOUT_S:.0f} s")
        time.sleep(LOOK_S)
    return curve


def slope(curve: Sequence[tuple[float, float]], total: float) -> float:
    """Seconds of audio a second over the middle of the audio."""
    inner = [(at, heard) for at, heard in curve if MIDDLE[0] * total <= heard <= MIDDLE[1] * total]
    if len(inner) < 2:
        raise AssertionError("too little audio for so fast a worker")
    return (inner[-1][1] - inner[0][1]) / (inner[-1][0] - inner[0][0])
