"""Four times as many streams as slots, faster than the engine, with little memory."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from deploy.redis import LocalRedis
from deploy.worker import LocalWorker
from tests.conftest import PARTITIONS, own_topics
from tests.integration.conftest import ONE_THREAD, Round
from tests.integration.offsets import committed, end_offsets
from tests.integration.sending import PCM, Sender, spoken, stream_of
from tests.integration.support import CALLS, MODEL, Outputs, assert_same, unique
from wire import Final, Topics
from wire import Record as WireRecord

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SLOTS = 5  # a quarter of the twenty streams
BATCH = 3  # fewer than hold a slot
FIRST_S = 8  # of each call, heard before the rest comes at once
TIGHT = {
    "batching.slots": SLOTS,
    "batching.max_batch": BATCH,
    "batching.memory_mb": 2,
    "state.store": "redis",
    "state.checkpoint_after_ms": 1000,
    "kafka.commit_interval_ms": 300,
}
HEAD_S = 3
FAIR_S = 30
FAIR_SPEED = 6  # times real time
# What one turn of each reader may bring on top of the memory: records of 100 ms.
TURN_BYTES = (500 + PARTITIONS * 100) * 0.1 * 16_000 * 4
# From a quarter of the time on: at first, steps of sizes that did not occur before cost some 30 MB once.
MEMORY_MB = 40


@dataclass(frozen=True)
class Tight:
    """A worker with few slots and little memory, and topics of its own: nobody else's calls stay open on them."""

    worker: LocalWorker
    outputs: Outputs
    sender: Sender
    group: str
    topics: Topics


@pytest.fixture(scope="module")
def tight(kafka: str, redis: LocalRedis) -> Iterator[Tight]:
    with own_topics(kafka) as topics:
        outputs, sender, group = Outputs(kafka, topics), Sender(kafka, topics.audio), unique("tight")
        settings = ONE_THREAD | TIGHT | {"state.redis_url": redis.url, "state.key_prefix": unique("tight:")}
        with LocalWorker(kafka, topics, MODEL, group, settings) as worker:
            yield Tight(worker, outputs, sender, group, topics)
        sender.close()
        outputs.close()


def test_four_times_as_many_streams_as_slots(tight: Tight, kafka: str, calls: Round) -> None:
    worker, outputs = tight.worker, tight.outputs
    streams = {stream: records(stream) for stream in calls.heard}
    for stream, (early, _) in streams.items():
        tight.sender.put(stream, early)
    tight.sender.flush()

    def saved() -> bool:
        heard = worker.metric("trunkline_audio_processed_seconds_total")
        return heard > len(streams) * (FIRST_S - 1) and not worker.metric("trunkline_streams_parked")

    outputs.until(saved, "the beginning of all calls")
    time.sleep(1)  # a commit names what was saved last
    replayed = worker.metric("trunkline_replayed_audio_seconds_total")
    restored = worker.metric("trunkline_checkpoints_total", outcome="restored")
    for stream, (_, rest) in streams.items():
        tight.sender.put(stream, rest)
    tight.sender.flush()

    parked: list[float] = []
    resident: list[float] = []
    waiting: list[float] = []

    def done() -> bool:
        parked.append(worker.metric("trunkline_streams_parked"))
        resident.append(worker.metric("process_resident_memory_bytes") / 1e6)
        waiting.append(worker.metric("trunkline_queue_audio_seconds"))
        return not outputs.open(calls.heard)

    outputs.until(done, "the end of all calls", timeout_s=180)
    heard = outputs.ended(calls.heard)
    for stream, twin in calls.heard.items():
        for event, other in zip(heard[stream].events, twin.events, strict=True):
            assert event.head.number == other.head.number
            assert_same(_headed_as(event, other), other)
    # what waits stays within its memory, but for what one turn of each reader brings; and the process stays as it was
    assert max(waiting) * 16_000 * 4 < TIGHT["batching.memory_mb"] * 1e6 + TURN_BYTES
    assert max(resident) - resident[len(resident) // 4] < MEMORY_MB, resident
    # streams waited without their audio, and were read again from where their checkpoints end, not from the beginning
    assert max(parked) > 0
    assert worker.metric("trunkline_checkpoints_total", outcome="restored") - restored >= max(parked)
    assert worker.metric("trunkline_replayed_audio_seconds_total") > replayed
    outputs.until(
        lambda: committed(kafka, tight.group, tight.topics.audio) == end_offsets(kafka, tight.topics.audio),
        "the offset of all that was read",
        20,
    )


def test_nobody_waits_any_more(tight: Tight) -> None:
    deadline = time.monotonic() + 10
    while tight.worker.metric("trunkline_queue_streams") or tight.worker.metric("trunkline_streams_parked"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert tight.worker.metric("trunkline_reading_paused") == 0


def test_no_admitted_stream_falls_behind_the_others(tight: Tight) -> None:
    """As many streams as slots have begun when three times as many come, all at a pace that the engine cannot keep."""
    worker, outputs, sender = tight.worker, tight.outputs, tight.sender
    streams = {f"fair-{number}": stream_of(*dialogue(number)) for number in range(4 * SLOTS)}
    admitted = list(streams)[:SLOTS]
    turns = max(map(len, streams.values()))
    head = 1 + 10 * HEAD_S
    told, before = len(outputs.partials), worker.metric("trunkline_audio_processed_seconds_total")
    for stream in admitted:
        sender.put(stream, streams[stream][:head])
    outputs.until(
        lambda: worker.metric("trunkline_audio_processed_seconds_total") - before > SLOTS * (HEAD_S - 1), "their slots"
    )
    waiting: list[float] = []
    sent: dict[str, list[float]] = {stream: [] for stream in streams}
    begun = time.monotonic()
    for turn in range(turns):
        for stream, records in streams.items():
            ahead = head if stream in admitted else 0
            sender.put(stream, records[turn + ahead : turn + ahead + 1])
            sent[stream].append(time.monotonic())
        outputs.poll(0)
        time.sleep(max(0.0, begun + turn * 0.1 / FAIR_SPEED - time.monotonic()))
    while outputs.open(streams):
        assert time.monotonic() < begun + 180
        outputs.poll()
        waiting.append(worker.metric("trunkline_queue_audio_seconds"))
    lags: dict[str, list[float]] = {stream: [] for stream in streams}
    for out in outputs.partials[told:]:
        stream = out.event.head.stream
        record = out.event.end // 100 + 1 - (head if stream in admitted else 0)
        if record > 0:
            lags[stream].append(out.received - sent[stream][min(record, turns - 1)])
    p95 = {stream: float(np.percentile(found, 95)) for stream, found in lags.items()}
    among = [p95[stream] for stream in admitted]
    assert max(among) < 2 * statistics.median(among), p95
    # those that wait pay for it, and what they were sent meanwhile was not all held
    assert statistics.median(p95.values()) > max(among)
    assert max(waiting) * 16_000 * 4 < TIGHT["batching.memory_mb"] * 1e6 + TURN_BYTES


def dialogue(number: int) -> tuple[PCM, int]:
    """Both sides of a demo call as one, so that somebody speaks most of the time; every ten another place in it."""
    paths = sorted(CALLS.glob("*.flac"))
    path = paths[number % len(paths)]
    (one, rate), (other, _) = spoken(path.stem, 0), spoken(path.stem, 1)
    later = number // len(paths) * 10 * rate
    return np.resize((one // 2 + other // 2)[later:], FAIR_S * rate), rate


def records(stream: str) -> tuple[Sequence[WireRecord], Sequence[WireRecord]]:
    """The demo call of this stream id: its beginning, and the rest."""
    call, _, channel = stream.rpartition("/")
    samples, rate = spoken(call.removeprefix("words-"), int(channel))
    whole = stream_of(samples, rate)
    return whole[: 1 + 10 * FIRST_S], whole[1 + 10 * FIRST_S :]


def _headed_as(event: Final, other: Final) -> Final:
    """The event with the other's head: it lies elsewhere, and its start said other things of the call."""
    return replace(event, head=other.head)
