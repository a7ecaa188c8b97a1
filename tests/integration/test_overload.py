"""More streams than slots, faster than the engine, with little memory; and twice the engine's speed for a while."""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from deploy.worker import LocalWorker
from tests.conftest import PARTITIONS, own_topics
from tests.integration.conftest import ONE_THREAD, Round, play_calls
from tests.integration.offsets import committed, end_offsets
from tests.integration.support import MODEL, Outputs, assert_same, unique
from wire import Final, Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SLOTS = 5  # a quarter of the twenty streams
TIGHT = {"batching.slots": SLOTS, "batching.max_batch": SLOTS, "batching.memory_mb": 2}
MEMORY_MB = 60  # over that of a worker that has loaded its model and heard its first words


@dataclass(frozen=True)
class Tight:
    """A worker with few slots and little memory, and the topics of its own: nobody else's calls stay open on them."""

    worker: LocalWorker
    outputs: Outputs
    group: str
    topics: Topics


@pytest.fixture(scope="module")
def tight(kafka: str) -> Iterator[Tight]:
    """All demo calls lie in the topic before the worker comes: far more than it can hear at once."""
    with own_topics(kafka) as topics:
        asyncio.run(play_calls(kafka, topics))
        outputs, group = Outputs(kafka, topics), unique("tight")
        with LocalWorker(kafka, topics, MODEL, group, ONE_THREAD | TIGHT) as worker:
            yield Tight(worker, outputs, group, topics)
        outputs.close()


def test_four_times_as_many_streams_as_slots(tight: Tight, kafka: str, calls: Round) -> None:
    worker, outputs = tight.worker, tight.outputs
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
            assert_same(_placed_as(event, other), other)
    assert max(parked) >= SLOTS  # streams waited, without their audio
    assert worker.metric("trunkline_replayed_audio_seconds_total") > 0  # and were read again
    # what waits stays within its memory, but for what one turn of each reader brings; and the process stays as it was
    turn = (500 + PARTITIONS * 100) * 0.1 * 16_000 * 4
    assert max(waiting) * 16_000 * 4 < TIGHT["batching.memory_mb"] * 1e6 + turn
    assert max(resident) - resident[len(resident) // 4] < MEMORY_MB, resident
    _check_fair(outputs)
    outputs.until(
        lambda: committed(kafka, tight.group, tight.topics.audio) == end_offsets(kafka, tight.topics.audio),
        "the offset of all that was read",
        10,
    )


def _check_fair(outputs: Outputs) -> None:
    """Of the streams that had a slot from the beginning, none lags much more than the others."""
    lags: dict[str, list[float]] = defaultdict(list)
    begun: dict[str, int] = {}
    for out in outputs.partials:
        stream = out.event.head.stream
        begun.setdefault(stream, out.time)
        lags[stream].append(out.time - int(out.headers["input-timestamp"]))
    first = sorted(begun, key=begun.__getitem__)[:SLOTS]
    p95 = [statistics.quantiles(lags[stream], n=20)[-1] for stream in first]
    assert max(p95) < 2 * statistics.median(p95), dict(zip(first, p95, strict=True))


def _placed_as(event: Final, other: Final) -> Final:
    """The event as it were if its records lay where the other's do; all else is its own."""
    return replace(event, head=replace(event.head, id=other.head.id, offsets=other.head.offsets))


def test_nobody_waits_any_more(tight: Tight) -> None:
    deadline = time.monotonic() + 10
    while tight.worker.metric("trunkline_queue_streams") or tight.worker.metric("trunkline_streams_parked"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert tight.worker.metric("trunkline_reading_paused") == 0
