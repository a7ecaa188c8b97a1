"""A real Prometheus with our alerts beside a real worker: the right alert, and no other.

The rules are the chart's, hurried (tests/telemetry/rules.py): nobody can wait for minutes here.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from bench.looped import loops
from deploy.prometheus import LocalPrometheus
from deploy.redis import LocalRedis
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS
from tests.integration.conftest import local_prometheus
from tests.integration.disturbed import names
from tests.integration.load import Load
from tests.integration.scene import assigned, redis_settings, scene
from tests.integration.sending import Sender
from tests.telemetry.rules import hurried
from tests.telemetry.table import PAGE

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

FACTOR = 20
WINDOW = "6s"  # two minutes, hurried
# An engine that a few streams overload: few slots, fewer rows a step, and one short chunk of each.
SLOTS, ROWS = 8, 2
SLOW = {"model.look_ahead": 1, "batching.slots": SLOTS, "batching.max_batch": ROWS, "batching.max_frames": 2}
QUIET, LOUD = 2, 12  # streams
SHOUT = 8.0  # seconds of audio a second, of each loud stream
QUERIES = re.findall(r"^\| [^|`]+ \| `([^`]+)` \|$", PAGE.read_text(), re.MULTILINE)


@dataclass
class Watched:
    """A worker with Redis that hears two streams in real time, and who watches it. `raised`: alerts since `calm`."""

    worker: LocalWorker
    redis: LocalRedis
    prometheus: LocalPrometheus
    sender: Sender
    quiet: Load

    def raised_until(self, done: Callable[[set[str]], object], timeout_s: float = 60.0) -> set[str]:
        """All alerts that fire until those firing at one moment are `done`."""
        raised: set[str] = set()
        deadline = time.monotonic() + timeout_s
        while True:
            firing = self.prometheus.alerts()["firing"]
            raised |= firing
            if done(firing):
                return raised
            assert time.monotonic() < deadline, f"{firing} fire, {raised} did: {self.worker.log_tail()}"
            time.sleep(0.25)

    def raised_for(self, seconds: float) -> set[str]:
        end = time.monotonic() + seconds
        return self.raised_until(lambda firing: time.monotonic() >= end)

    def value(self, query: str) -> float:
        (sample,) = self.prometheus.query(query)
        return float(sample["value"][1])


@pytest.fixture(scope="module")
def watched(kafka: str, zygote: Zygote) -> Iterator[Watched]:
    with LocalRedis() as server, scene(kafka, zygote, redis_settings(server) | SLOW) as it:
        worker = it.group.worker()
        assigned(worker, PARTITIONS)
        target = worker.address.removeprefix("http://")
        streams = list(zip(names("quiet", range(QUIET)), loops(QUIET), strict=True))
        with (
            local_prometheus([target], scrape_ms=500, rules=hurried(FACTOR)) as prometheus,
            Load(it.sender, streams) as quiet,
        ):
            yield Watched(worker, server, prometheus, it.sender, quiet)


def test_the_key_queries_return_sensible_numbers_and_nothing_fires(watched: Watched) -> None:
    assert watched.raised_for(10) == set()
    assert watched.value("sum(trunkline_streams_open)") == QUIET
    assert watched.value("max(trunkline_lag_seconds)") < 2
    assert 0 <= watched.value("sum(trunkline_lag_audio_seconds)") < 2 * QUIET
    assert watched.value(f"rate(trunkline_audio_processed_seconds_total[{WINDOW}])") == pytest.approx(QUIET, rel=0.3)
    assert 0 < watched.value(f"rate(trunkline_step_duration_seconds_sum[{WINDOW}])") < 0.8
    assert watched.value("sum(trunkline_partitions_read)") == PARTITIONS
    assert watched.value("trunkline_chunk_duration_seconds") == 0.16
    p95 = "histogram_quantile(0.95, sum by (le) (rate(trunkline_{}_bucket[10s])))"
    assert 0 < watched.value(p95.format("partial_delay_seconds")) < 2
    assert watched.value(p95.format("commit_duration_seconds")) < 2
    assert watched.value(p95.format("state_store_request_duration_seconds")) < 1


@pytest.mark.parametrize("query", QUERIES)
def test_the_queries_of_the_page_on_metrics_are_answered(query: str, watched: Watched) -> None:
    hurried_query = query.replace("[2m]", f"[{WINDOW}]")
    found = [float(sample["value"][1]) for sample in watched.prometheus.query(hurried_query)]
    assert found
    assert all(abs(number) < 1000 for number in found), found


def test_a_redis_that_stops_raises_one_alert_and_calls_go_on(watched: Watched) -> None:
    heard = watched.worker.metric("trunkline_audio_processed_seconds_total")
    watched.redis.stop()
    assert watched.raised_until(bool) == {"TrunklineStateStoreDown"}
    assert watched.raised_for(4) == {"TrunklineStateStoreDown"}
    assert watched.worker.metric("trunkline_audio_processed_seconds_total") > heard + 4
    assert watched.worker.metric("trunkline_state_store_errors_total", operation="put") > 0
    watched.redis.start()
    assert watched.raised_until(lambda firing: not firing) == {"TrunklineStateStoreDown"}


def test_an_overload_raises_one_alert_and_its_audio_is_counted(watched: Watched) -> None:
    """Last: nobody waits until the worker has heard it all."""
    heard = watched.worker.metric("trunkline_audio_processed_seconds_total")
    sent = watched.quiet.seconds
    streams = list(zip(names("loud", [*range(PARTITIONS)] * 3), loops(LOUD), strict=True))
    with Load(watched.sender, streams, SHOUT) as loud:
        assert watched.raised_until(bool) == {"TrunklineOverloaded"}
        assert watched.raised_for(4) == {"TrunklineOverloaded"}
        assert watched.value(f"rate(trunkline_step_duration_seconds_sum[{WINDOW}])") > 0.8
        assert watched.value("max(trunkline_lag_seconds)") > 5
        assert watched.value("trunkline_streams_active") == watched.value("trunkline_slots") == SLOTS
        admitted = watched.value("trunkline_streams_admitted")
        assert admitted + watched.value("trunkline_streams_parked") == QUIET + LOUD
        short = watched.value("trunkline_streams_waiting + trunkline_streams_parked")
        assert LOUD - SLOTS <= short <= QUIET + LOUD - SLOTS  # a quiet stream may have nothing to say just now
        occupancy = f"rate(trunkline_batch_streams_sum[{WINDOW}]) / rate(trunkline_batch_streams_count[{WINDOW}])"
        assert watched.value(occupancy) == pytest.approx(ROWS, rel=0.1)
    time.sleep(1.5)  # housekeeping, and what is on its way
    waiting = loud.seconds + watched.quiet.seconds - sent
    waiting -= watched.worker.metric("trunkline_audio_processed_seconds_total") - heard
    assert waiting > 30
    assert watched.worker.metric("trunkline_lag_audio_seconds") == pytest.approx(waiting, rel=0.15)
    assert watched.worker.metric("trunkline_streams_open") == QUIET + LOUD
