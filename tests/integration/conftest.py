"""One worker process, one NeMo and one round of calls, shared by all tests that can: each start costs half a minute."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from deploy.prometheus import LocalPrometheus, PrometheusUnavailable
from deploy.redis import LocalRedis, RedisUnavailable
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from producer import Producer
from producer.play import Style, play, sources
from tests.conftest import own_topics, require
from tests.integration.offsets import end_offsets
from tests.integration.oracle import Oracle
from tests.integration.sending import Sender
from tests.integration.support import CALLS, MODEL, Heard, Outputs, unique
from wire import Topics

PREFIX = "words-"
ONE_THREAD = {"model.threads": 1}


@dataclass
class Service:
    """A running worker with its topics. `starting`: what its probes answered while it was loading the model."""

    servers: str
    topics: Topics
    worker: LocalWorker
    outputs: Outputs
    sender: Sender
    starting: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """All demo calls, played as fast as Kafka takes them."""

    offsets: dict[int, int]  # of the audio topic's ends before
    heard: dict[str, Heard]  # by stream id
    batches: float  # steps with audio
    rows: float  # streams in them
    audio_s: float  # through the engine
    encoder_calls: float
    decoder_calls: float


@pytest.fixture(scope="session")
def oracle() -> Iterator[Oracle]:
    # two threads that wait for each other beside a busy worker take ten times as long as one
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Oracle(MODEL)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def zygote() -> Iterator[Zygote]:
    """For tests that start many workers."""
    with Zygote() as started:
        yield started


@pytest.fixture(scope="session")
def redis() -> Iterator[LocalRedis]:
    try:
        server = LocalRedis()
    except RedisUnavailable as missing:
        require(False, str(missing))
        raise
    with server:
        yield server


@pytest.fixture(scope="session")
def shared_topics(kafka: str) -> Iterator[Topics]:
    with own_topics(kafka) as names:
        yield names


@pytest.fixture(scope="session")
def loading(kafka: str, shared_topics: Topics) -> Iterator[tuple[LocalWorker, dict[str, int]]]:
    """The shared worker, not ready yet, and its probes' answers by then."""
    worker = LocalWorker(kafka, shared_topics, MODEL, unique("shared"), ONE_THREAD)
    worker.start(wait=False)
    try:
        yield worker, _probe(worker)
    finally:
        worker.stop()


@pytest.fixture(scope="session")
def service(
    kafka: str, shared_topics: Topics, loading: tuple[LocalWorker, dict[str, int]], oracle: Oracle
) -> Iterator[Service]:
    """The shared worker, ready. The oracle is loaded by then, while it starts."""
    worker, starting = loading
    worker.wait_ready()
    outputs, sender = Outputs(kafka, shared_topics), Sender(kafka, shared_topics.audio)
    yield Service(kafka, shared_topics, worker, outputs, sender, starting)
    sender.close()
    outputs.close()


@pytest.fixture(scope="session")
def calls(service: Service) -> Round:
    """The ten demo calls, twenty streams, through the shared worker."""
    offsets = end_offsets(service.servers, service.topics.audio)
    before = _steps(service.worker)
    streams = asyncio.run(play_calls(service.servers, service.topics))
    heard = service.outputs.ended(streams, timeout_s=180)
    figures = (now - then for now, then in zip(_steps(service.worker), before, strict=True))
    return Round(offsets, heard, *figures)


def local_prometheus(targets: list[str], **options: Any) -> LocalPrometheus:
    try:
        return LocalPrometheus(targets, **options)
    except PrometheusUnavailable as missing:
        require(False, str(missing))
        raise


async def play_calls(servers: str, topics: Topics) -> list[str]:
    """Put the ten demo calls on the audio topic at once; returns their twenty stream ids."""
    names = sources(sorted(CALLS.glob("*.flac")), prefix=PREFIX)
    style = Style(speed=None, language="en", channel_names=("agent", "customer"), metadata={"tenant": "demo", "n": 7})
    async with Producer(servers, topic=topics.audio) as producer:
        for progress in await play(producer, names, style):
            assert progress.error is None
    return [f"{source.call_id}/{channel}" for source in names for channel in (0, 1)]


def _steps(worker: LocalWorker) -> list[float]:
    names = ("batch_streams_count", "batch_streams_sum", "audio_processed_seconds_total")
    calls = ("encoder_calls_total", "decoder_calls_total")
    return [worker.metric(f"trunkline_{name}") for name in names + calls]


def _probe(worker: LocalWorker) -> dict[str, int]:
    """HTTP status of each page as soon as the telemetry port is open."""
    deadline = time.monotonic() + 60
    while True:
        try:
            base = worker.address
            return {path: _status(f"{base}{path}") for path in ("/healthz", "/readyz", "/metrics", "/other")}
        except OSError:
            assert time.monotonic() < deadline, worker.log_tail()
            time.sleep(0.05)


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
