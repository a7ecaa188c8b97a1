"""The scaler's queries, answered by a real Prometheus: how many workers a load asks for."""

import math
import time

import pytest

from deploy.prometheus import LocalPrometheus, PrometheusUnavailable
from tests.conftest import require
from tests.helm.chart import objects, only
from tests.helm.load import Load, Prometheus

SCALING = {"autoscaling": {"enabled": True, "streamsPerWorker": 50, "lagSeconds": 5}}


@pytest.fixture
def load():
    page = Load()
    yield page
    page.stop()


def _scraped(prometheus: LocalPrometheus, query: str, value: float) -> None:
    deadline = time.monotonic() + 30
    while [float(sample["value"][1]) for sample in prometheus.query(query)] != [value]:
        assert time.monotonic() < deadline, query
        time.sleep(0.1)


def test_the_queries_count_workers_of_this_release_and_fail_when_there_are_none(load):
    triggers = only(objects(SCALING), "ScaledObject")["spec"]["triggers"]

    def wanted() -> list[int | None]:
        """Workers by each trigger, as KEDA's average value means it; None where it has no answer."""
        found = []
        for trigger in triggers:
            samples = prometheus.query(trigger["metadata"]["query"])
            assert len(samples) <= 1, "KEDA takes one"
            value = float(samples[0]["value"][1]) if samples else None
            found.append(None if value is None else math.ceil(value / float(trigger["metadata"]["threshold"]) - 1e-9))
        return found

    try:
        running = Prometheus(load.address, "speech", "calls-trunkline-0")
    except PrometheusUnavailable as missing:
        require(False, str(missing))
        raise
    with running as prometheus:
        for ready, streams, lag_s, lag_workers, stream_workers in (
            (4, 170, 6.0, 5, 4),  # 4 x 6 / 5
            (4, 0, 0.0, 0, 0),
            (4, 60, 60.0, 8, 2),  # at most twice as many
        ):
            load.say(ready=ready, streams=streams, lag_s=lag_s)
            _scraped(prometheus, "trunkline_streams_open", streams)
            _scraped(prometheus, "trunkline_lag_seconds", lag_s)
            assert wanted() == [lag_workers, stream_workers]
        triggers = only(objects(SCALING, name="other"), "ScaledObject")["spec"]["triggers"]
        assert wanted() == [None, None], "another release's workers are not this one's"
