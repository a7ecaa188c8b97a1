"""/metrics and the probes over real HTTP."""

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.telemetry.metrics import Metrics
from worker.telemetry.server import TelemetryServer


class Probes:
    """A server whose probes answer what the test says."""

    def __init__(self) -> None:
        self.healthy: str | None = None
        self.ready: str | None = None
        self.metrics = Metrics()
        self.drains = 0
        self.server = TelemetryServer(
            "127.0.0.1", 0, self.metrics.registry, lambda: self.healthy, lambda: self.ready, self.drain
        )

    def drain(self) -> None:
        self.drains += 1

    def get(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.server.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def probes() -> Iterator[Probes]:
    found = Probes()
    found.server.start()
    yield found
    found.server.stop()


def test_metrics_can_be_parsed_and_move(probes):
    probes.metrics.records.inc(3)
    status, kind, text = probes.get("/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    assert samples["trunkline_records_read_total"] == 3


@pytest.mark.parametrize(("path", "attribute"), [("/healthz", "healthy"), ("/readyz", "ready")])
def test_a_probe_answers_with_the_sentence_that_says_what_is_wrong(probes, path, attribute):
    assert probes.get(path) == (200, "text/plain; charset=utf-8", "ok\n")
    setattr(probes, attribute, "the model's thread has ended")
    assert probes.get(path) == (503, "text/plain; charset=utf-8", "the model's thread has ended\n")
    other = {"/healthz": "/readyz", "/readyz": "/healthz"}[path]
    assert probes.get(other)[0] == 200
    setattr(probes, attribute, None)
    assert probes.get(path)[0] == 200


def test_another_path_says_which_there_are(probes):
    status, _, text = probes.get("/")
    assert status == 404
    assert all(path in text for path in ("/metrics", "/healthz", "/readyz"))


def test_a_probe_that_breaks_fails(probes):
    probes.server._probes["/healthz"] = lambda: 1 / 0
    assert probes.get("/healthz")[0] == 500
    assert probes.get("/readyz")[0] == 200


def test_a_drain_is_begun_by_a_post_from_this_machine_only(probes):
    assert probes.get("/drain")[0] == 405
    assert probes.drains == 0
    assert probes.get("/drain", "POST")[0] == 202
    assert probes.drains == 1
    answered: list[str] = []
    elsewhere = {"PATH_INFO": "/drain", "REQUEST_METHOD": "POST", "REMOTE_ADDR": "10.1.2.3"}
    probes.server._answer(elsewhere, lambda status, headers: answered.append(status))
    assert answered == ["403 Forbidden"]
    assert probes.drains == 1


def test_the_port_is_free_again_after_stop():
    first = Probes()
    first.server.start()
    port = first.server.port
    with pytest.raises(OSError, match="in use"):
        TelemetryServer("127.0.0.1", port, first.metrics.registry, lambda: None, lambda: None, lambda: None)
    first.server.stop()
    again = TelemetryServer("127.0.0.1", port, first.metrics.registry, lambda: None, lambda: None, lambda: None)
    again.start()
    again.stop()


@pytest.mark.parametrize(("host", "elsewhere"), [("127.0.0.2", "127.0.0.1"), ("::1", "127.0.0.1")])
def test_it_listens_where_it_is_told_and_nowhere_else(host, elsewhere):
    server = TelemetryServer(host, 0, Metrics().registry, lambda: None, lambda: None, lambda: None)
    server.start()
    try:
        name = f"[{host}]" if ":" in host else host
        with urllib.request.urlopen(f"http://{name}:{server.port}/metrics", timeout=10) as answer:
            assert answer.status == 200
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"http://{elsewhere}:{server.port}/metrics", timeout=10)
    finally:
        server.stop()
