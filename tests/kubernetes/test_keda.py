"""Workers follow the load: KEDA's own operator, a real Prometheus, and the chart's ScaledObject between them."""

import socket
from collections.abc import Iterator

import pytest

from deploy.prometheus import LocalPrometheus
from tests.kubernetes import keda
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.release import NAME, Release, events, eventually, release
from worker.telemetry.metrics import Metrics
from worker.telemetry.server import TelemetryServer

PARTITIONS = 6


class Load:
    """The metrics page of one worker, with a load that the test says."""

    def __init__(self) -> None:
        self._metrics = Metrics()
        self._server = TelemetryServer("127.0.0.1", 0, self._metrics.registry, lambda: None, lambda: None, lambda: None)
        self._server.start()
        self.address = f"127.0.0.1:{self._server.port}"
        self.say(ready=1, streams=0, lag_s=0.0)

    def say(self, ready: int, streams: int, lag_s: float) -> None:
        metrics = self._metrics
        metrics.ready.set(ready)
        metrics.open.set(streams)
        metrics.lag.labels("0").set(lag_s)

    def stop(self) -> None:
        self._server.stop()


class Prometheus(LocalPrometheus):
    """Scrapes the page with the labels that the operator's monitors give."""

    def __init__(self, address: str, namespace: str) -> None:
        super().__init__([])
        (job,) = self._config["scrape_configs"]
        labels = {"namespace": namespace, "pod": f"{NAME}-trunkline-0"}
        job["static_configs"] = [{"targets": [address], "labels": labels}]


@pytest.fixture(scope="module")
def autoscaler(cluster: Cluster) -> Cluster:
    keda.start(cluster)
    return cluster


@pytest.fixture
def load() -> Iterator[Load]:
    page = Load()
    yield page
    page.stop()


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


def test_workers_follow_streams_and_lag_up_to_the_partitions_and_stay_when_prometheus_is_away(autoscaler, load):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{held.getsockname()[1]}"
    with release(autoscaler, _values(nobody)) as made:
        with Prometheus(load.address, made.namespace) as prometheus:
            eventually(lambda: prometheus.query("trunkline_ready"), "a first sample")
            made.write(_values(prometheus.address))
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
