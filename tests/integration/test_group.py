"""Several workers in one group, on the same calls as the shared worker, which nobody disturbs: killed, joined, stopped.

Calls are spoken while it happens, at a multiple of their speed. Every event comes exactly once.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack

import pytest
from redis import Redis

from deploy.redis import LocalRedis
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS, own_topics
from tests.integration.conftest import ONE_THREAD, Service
from tests.integration.disturbed import names, voices
from tests.integration.offsets import committed, end_offsets, place_group
from tests.integration.sending import talk
from tests.integration.support import MODEL, ROOT, Heard, Outputs, assert_same, unique
from wire import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SPEED = 4.0
REPLAYED = "trunkline_replayed_audio_seconds_total"
RESTORED = "trunkline_checkpoints_total"
SETTINGS = ONE_THREAD | {"kafka.session_timeout_ms": 6000, "kafka.commit_interval_ms": 200}


class Fleet:
    """The group's workers, with output topics of their own."""

    def __init__(self, servers: str, topics: Topics, zygote: Zygote, settings: Mapping[str, object]) -> None:
        self.topics = topics
        self.outputs = Outputs(servers, topics)
        self.group = unique("fleet")
        self.store = settings["state.store"]
        self._redis_url = str(settings["state.redis_url"])
        self.begin = end_offsets(servers, topics.audio)
        self.workers: list[LocalWorker] = []
        self._servers = servers
        self._zygote = zygote
        self._settings = settings
        place_group(servers, self.group, topics.audio, self.begin)

    def add(self, count: int = 1) -> list[LocalWorker]:
        """Workers that are on their way, not ready."""
        new = [
            LocalWorker(self._servers, self.topics, MODEL, self.group, self._settings, zygote=self._zygote)
            for _ in range(count)
        ]
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

    def keys(self, stream: str) -> list[bytes]:
        """Of checkpoints of streams whose names begin so."""
        return list(Redis.from_url(self._redis_url).keys(f"*{self.group}:*:{stream}*"))

    def close(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.outputs.close)
            for worker in self.workers:
                stack.callback(worker.stop)


@pytest.fixture(scope="module", params=["device", "redis"])
def fleet(request: pytest.FixtureRequest, service: Service, zygote: Zygote, redis: LocalRedis) -> Iterator[Fleet]:
    store = {"state.store": request.param, "state.redis_url": redis.url, "state.checkpoint_after_ms": 1000}
    with own_topics(service.servers) as own:
        topics = Topics(service.topics.audio, own.final, own.partial, own.rejected, own.streams)
        made = Fleet(service.servers, topics, zygote, SETTINGS | store)
        yield made
        made.close()


def test_a_killed_worker_loses_nothing_and_tells_nothing_twice(fleet: Fleet, service: Service) -> None:
    victim, heir = fleet.of(2)

    def kill() -> None:
        victim.kill()
        fleet.workers.remove(victim)

    check(fleet, service, *play(fleet, service, "killed", [*range(PARTITIONS)] * 2, at_half=kill))
    assert heir.metric(REPLAYED) > 0


def test_a_worker_that_joins_in_mid_call_takes_over_and_the_other_keeps_its_sessions(
    fleet: Fleet, service: Service
) -> None:
    (host,) = fleet.of(1)
    replayed = host.metric(REPLAYED)
    (guest,) = fleet.add()

    def join() -> None:
        guest.wait_ready()
        fleet.spread(2)

    check(fleet, service, *play(fleet, service, "joined", range(PARTITIONS), at_half=join))
    assert guest.metric("trunkline_audio_processed_seconds_total") > 0
    assert host.metric(REPLAYED) == replayed


@pytest.mark.parametrize("by", ["signal", "command"])
def test_a_drain_in_mid_call_hands_over(by: str, fleet: Fleet, service: Service) -> None:
    leaver, heir = fleet.of(2)
    before, restored = heir.metric(REPLAYED), heir.metric(RESTORED, outcome="restored")
    took: list[float] = []

    def stop() -> None:
        began = time.monotonic()
        if by == "command":
            command = [sys.executable, "-m", "trunkline", "worker", "drain", "--url", leaver.address]
            assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 0
        assert fleet.leave(leaver) == 0, leaver.log_tail()
        took.append(time.monotonic() - began)

    check(fleet, service, *play(fleet, service, f"left-{by}", range(PARTITIONS), at_half=stop))
    assert took[0] < 10
    assert heir.metric("trunkline_partitions_assigned") == PARTITIONS
    # half of the calls are taken over: read again from their first record, or hardly at all
    again = heir.metric(REPLAYED) - before
    if fleet.store == "redis":
        assert heir.metric(RESTORED, outcome="restored") - restored == PARTITIONS // 2
        assert again < 2
    else:
        assert again > PARTITIONS // 2 * 8
    # all calls are over: nothing is left to read, and nothing of them in the store
    assert fleet.leave(heir) == 0
    assert not fleet.keys(f"left-{by}")
    assert committed(service.servers, fleet.group, fleet.topics.audio) == end_offsets(
        service.servers, fleet.topics.audio
    )


def play(
    fleet: Fleet, service: Service, name: str, partitions: Collection[int], at_half: Callable[[], object]
) -> tuple[dict[str, Heard], dict[int, int]]:
    """Calls at four times their speed, a stream for each of the partitions; `at_half` runs while all are under way.

    Returns what the shared worker heard, and the fleet's committed offsets just before `at_half`.
    """
    places: dict[int, int] = {}

    def halfway() -> None:
        places.update(committed(service.servers, fleet.group, service.topics.audio))
        at_half()

    streams = dict(zip(names(f"{name}-{fleet.store}", partitions), voices(), strict=False))
    asyncio.run(talk(service.servers, service.topics.audio, streams, SPEED, halfway))
    return service.outputs.ended(streams), places


def check(fleet: Fleet, service: Service, undisturbed: Mapping[str, Heard], halfway: Mapping[int, int]) -> None:
    """The fleet told the same; without checkpoints it never committed past the start of a call that was under way."""
    fleet.outputs.ended(undisturbed, timeout_s=90)
    fleet.outputs.poll(1.0)
    for stream, heard in undisturbed.items():
        events = [out.event for out in fleet.outputs.finals if out.event.head.stream == stream]
        assert [event.head.id for event in events] == [event.head.id for event in heard.events]
        for event, twin in zip(events, heard.events, strict=True):
            assert_same(event, twin)
        assert len(heard.words) > 5
        partition, first = map(int, heard.events[0].head.id.split("/")[-2].split("-"))
        assert heard.outs[0].partition == partition
        assert fleet.begin[partition] <= halfway[partition]
        assert halfway[partition] <= first or fleet.store == "redis"
    assert not fleet.outputs.rejected
