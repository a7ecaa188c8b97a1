"""A load that a test says, as Prometheus sees it: a worker's own metrics page, with values of the test's."""

from deploy.prometheus import LocalPrometheus
from worker.telemetry.metrics import Metrics
from worker.telemetry.server import TelemetryServer


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

    def __init__(self, address: str, namespace: str, pod: str) -> None:
        super().__init__([])
        (job,) = self._config["scrape_configs"]
        job["static_configs"] = [{"targets": [address], "labels": {"namespace": namespace, "pod": pod}}]
