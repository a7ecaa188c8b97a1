"""Workers follow the load: KEDA's own operator, a real Prometheus, and the chart's ScaledObject between them."""

import socket
from collections.abc import Iterator

import pytest

from tests.conftest import require
from tests.helm.load import Load, Prometheus
from tests.kubernetes import keda
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.release import NAME, Release, events, eventually, release

PARTITIONS = 6


@pytest.fixture(scope="module")
def autoscaler(cluster: Cluster) -> Cluster:
    require((cluster.binaries / "keda-operator").exists(), "KEDA was not built: make test-kubernetes KEDA=1")
    keda.start(cluster)
    return cluster


def _values(prometheus: str) -> dict:
    at_once = {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 20, "periodSeconds": 1}]}
    return {
        "gpu": {"count": 0},
        "topics": {"partitions": PARTITIONS},
        "autoscaling": {
            "enabled": True,
            "streamsPerWorker": 50,
            "lagSeconds": 5,
            "pollingIntervalSeconds": 1,
            "prometheus": {"serverAddress": prometheus},
            "fallback": {"failureThreshold": 2, "replicas": 3},
            "behavior": {"scaleUp": at_once, "scaleDown": at_once},
        },
    }


def _follows(made: Release, replicas: int, why: str) -> None:
    try:
        eventually(lambda: made.ready() == len(made.workers()) == replicas, f"{replicas} workers: {why}", 60)
    except AssertionError as error:
        scaled = made.get("scaledobjects")[0].get("status")
        raise AssertionError(f"{error}; {len(made.workers())} there\n{scaled}\n{events(made)}") from None


@pytest.fixture
def load() -> Iterator[Load]:
    page = Load()
    yield page
    page.stop()


def test_workers_follow_streams_and_lag_up_to_the_partitions_and_stay_when_prometheus_is_away(autoscaler, load):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"
    with release(autoscaler, _values(nobody)) as made:
        with Prometheus(load.address, made.namespace, f"{NAME}-trunkline-0") as prometheus:
            eventually(lambda: prometheus.query("trunkline_ready"), "a first sample")
            made.write(_values(prometheus.url))
            made.install()
            _follows(made, 1, "nobody speaks")
            load.say(ready=1, streams=170, lag_s=0.0)
            _follows(made, 4, "170 streams at 50 a worker")
            # the one page stands for all workers: 4 are ready
            load.say(ready=4, streams=170, lag_s=6.0)
            _follows(made, 5, "callers wait 6 s and may wait 5")
            load.say(ready=5, streams=170, lag_s=60.0)
            _follows(made, PARTITIONS, "twice as many, capped by the partitions")
            load.say(ready=6, streams=60, lag_s=0.1)
            _follows(made, 2, "60 streams")
        _follows(made, 3, "Prometheus is away: the fallback")
