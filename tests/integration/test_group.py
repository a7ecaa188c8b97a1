"""Several workers in one group, on the same calls as the shared worker, which nobody disturbs: killed, joined, stopped.

Delivery is at least once: the same events, by id, with the same content; some may come twice, none is missing.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack

import pytest
from aiokafka.partitioner import murmur2

from deploy.worker import LocalWorker
from tests.conftest import PARTITIONS, own_topics
from tests.integration.conftest import ONE_THREAD, Service
from tests.integration.offsets import committed, end_offsets, place_group
from tests.integration.sending import PCM, spoken, talk
from tests.integration.support import MODEL, Heard, Outputs, assert_same, unique
from wire import Final, Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SPEED = 4.0
GROUP = unique("fleet")
SETTINGS = ONE_THREAD | {"kafka.session_timeout_ms": 6000, "kafka.commit_interval_ms": 200}


class Fleet:
    """The group's workers, with output topics of their own."""

    def __init__(self, servers: str, topics: Topics) -> None:
        self.topics = topics
        self.outputs = Outputs(servers, topics)
        self.begin = end_offsets(servers, topics.audio)
        self.workers: list[LocalWorker] = []
        self._servers = servers
        place_group(servers, GROUP, topics.audio, self.begin)

    def add(self, count: int = 1) -> list[LocalWorker]:
        """Workers that are on their way, not ready."""
        new = [LocalWorker(self._servers, self.topics, MODEL, GROUP, SETTINGS) for _ in range(count)]
        for worker in new:
            worker.start(wait=False)
        self.workers += new
        return new

    def of(self, count: int) -> list[LocalWorker]:
        """Exactly so many workers, ready, with the partitions spread over them."""
        while len(self.workers) > count:
            assert self.leave(self.workers[-1]) == 0
        self.add(count - len(self.workers))
        for worker in self.workers:
            worker.wait_ready()
        self.spread(count)
        return list(self.workers)

    def spread(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while sorted(self.shares()) != [PARTITIONS // count] * count:
            assert time.monotonic() < deadline, self.shares()
            time.sleep(0.1)

    def shares(self) -> list[float]:
        return [worker.metric("trunkline_partitions_assigned") for worker in self.workers]

    def leave(self, worker: LocalWorker) -> int:
        self.workers.remove(worker)
        return worker.stop()

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.outputs.close)
            for worker in self.workers:
                stack.callback(worker.stop)


@pytest.fixture(scope="module")
def fleet(service: Service) -> Iterator[Fleet]:
    with own_topics(service.servers) as own:
        topics = Topics(service.topics.audio, own.final, own.partial, own.rejected, own.streams)
        made = Fleet(service.servers, topics)
        yield made
        made.close()


def test_a_killed_worker_loses_nothing(fleet: Fleet, service: Service) -> None:
    victim, _ = fleet.of(2)

    def kill() -> None:
        victim.kill()
        fleet.workers.remove(victim)

    before = len(fleet.outputs.finals)
    check(fleet, service, *play(service, "killed", [*range(PARTITIONS)] * 2, at_half=kill))
    # the calls were under way: what the victim had told of them is told again
    assert len(fleet.outputs.finals) - before > len({out.event.head.id for out in fleet.outputs.finals[before:]})


def test_a_worker_that_joins_in_mid_call_loses_nothing(fleet: Fleet, service: Service) -> None:
    fleet.of(1)
    (guest,) = fleet.add()

    def join() -> None:
        guest.wait_ready()
        fleet.spread(2)

    check(fleet, service, *play(service, "joined", range(PARTITIONS), at_half=join))
    assert guest.metric("trunkline_audio_processed_seconds_total") > 0


def test_sigterm_in_mid_call_drains_and_hands_over(fleet: Fleet, service: Service) -> None:
    leaver, heir = fleet.of(2)
    took: list[float] = []

    def stop() -> None:
        began = time.monotonic()
        assert fleet.leave(leaver) == 0, leaver.log_tail()
        took.append(time.monotonic() - began)

    check(fleet, service, *play(service, "stopped", range(PARTITIONS), at_half=stop))
    assert took[0] < 10
    assert heir.metric("trunkline_partitions_assigned") == PARTITIONS
    # all calls are over: nothing is left to read
    assert fleet.leave(heir) == 0
    assert committed(service.servers, GROUP, fleet.topics.audio) == end_offsets(service.servers, fleet.topics.audio)


def play(
    service: Service, name: str, partitions: Collection[int], at_half: Callable[[], object]
) -> tuple[dict[str, Heard], dict[int, int]]:
    """Calls at four times their speed, a stream for each of the partitions; `at_half` runs while all are under way.

    Returns what the shared worker heard, and the fleet's committed offsets just before `at_half`.
    """
    places: dict[int, int] = {}

    def halfway() -> None:
        places.update(committed(service.servers, GROUP, service.topics.audio))
        at_half()

    streams = dict(zip(names(name, partitions), voices(), strict=False))
    asyncio.run(talk(service.servers, service.topics.audio, streams, SPEED, halfway))
    return service.outputs.ended(streams), places


def check(fleet: Fleet, service: Service, undisturbed: Mapping[str, Heard], halfway: Mapping[int, int]) -> None:
    """The fleet told the same, and never committed past the start of a call that was under way."""
    fleet.outputs.ended(undisturbed, timeout_s=90)
    fleet.outputs.poll(1.0)
    expected: dict[str, Final] = {o.event.head.id: o.event for heard in undisturbed.values() for o in heard.outs}
    outs = [out for out in fleet.outputs.finals if out.event.head.stream in undisturbed]
    assert {out.event.head.id for out in outs} == set(expected)
    for out in outs:
        assert_same(out.event, expected[out.event.head.id])
    for heard in undisturbed.values():
        assert len(heard.words) > 5
        partition, first = map(int, heard.events[0].head.id.split("/")[-2].split("-"))
        assert heard.outs[0].partition == partition
        assert fleet.begin[partition] <= halfway[partition] <= first
    assert not fleet.outputs.rejected


def names(prefix: str, partitions: Collection[int]) -> list[str]:
    """Stream ids that Kafka's partitioner sends to these partitions."""
    made: list[str] = []
    for partition in partitions:
        ids = (f"{prefix}-{n}" for n in range(1000))
        made.append(
            next(i for i in ids if i not in made and (murmur2(i.encode()) & 0x7FFFFFFF) % PARTITIONS == partition)
        )
    return made


def voices() -> Iterator[tuple[PCM, int]]:
    for call in ("call-03", "call-02", "call-01", "call-09"):
        for channel in (0, 1):
            samples, rate = spoken(call, channel)
            yield samples[: 22 * rate], rate
