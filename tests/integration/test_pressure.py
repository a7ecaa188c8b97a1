"""More streams than slots, and more audio than memory: slower, but the same words."""

from collections.abc import Iterator

import pytest

from deploy.worker import LocalWorker
from tests.conftest import own_topics
from tests.integration.conftest import ONE_THREAD, Round, Service
from tests.integration.offsets import place_group
from tests.integration.support import MODEL, Outputs, assert_same, unique
from wire import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

TIGHT = {"batching.slots": 4, "batching.memory_mb": 1}


@pytest.fixture(scope="module")
def tight(service: Service, calls: Round) -> Iterator[tuple[LocalWorker, Outputs]]:
    """A second worker that reads the same calls with four slots and room for 16 s of audio."""
    with own_topics(service.servers) as own:
        topics = Topics(service.topics.audio, own.final, own.partial, own.rejected, own.streams)
        group = unique("tight")
        place_group(service.servers, group, topics.audio, calls.offsets)
        outputs = Outputs(service.servers, topics)
        with LocalWorker(service.servers, topics, MODEL, group, ONE_THREAD | TIGHT) as worker:
            yield worker, outputs
        outputs.close()


def test_twenty_streams_in_four_slots_and_one_megabyte(tight: tuple[LocalWorker, Outputs], calls: Round) -> None:
    worker, outputs = tight
    paused = []
    spilled = []

    def done() -> bool:
        paused.append(worker.metric("trunkline_reading_paused"))
        spilled.append(worker.metric("trunkline_streams", state="spilled"))
        return not outputs.open(calls.heard)

    outputs.until(done, "the end of all calls", timeout_s=180)
    assert max(paused) == 1
    assert max(spilled) >= 4
    assert worker.metric("trunkline_slots") == 4
    heard = outputs.ended(calls.heard)
    for stream, twin in calls.heard.items():
        for event, other in zip(heard[stream].events, twin.events, strict=True):
            assert_same(event, other)
