"""What a real Prometheus and an orchestrator see of a worker."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import guard
from tests.conftest import PARTITIONS, require
from tests.integration.conftest import Round, Service

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

CONFIG = """\
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: trunkline
    static_configs: [{{targets: ["{target}"]}}]
"""

Query = Callable[[str], list[dict]]


@pytest.fixture(scope="module")
def query(service: Service, calls: Round, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Query]:
    """Instant queries on a Prometheus that scrapes the shared worker; an answer is a list of samples."""
    prometheus = shutil.which("prometheus")
    require(prometheus, "no `prometheus` on this machine (Debian package prometheus)")
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "prometheus.yml").write_text(CONFIG.format(target=service.worker.address.removeprefix("http://")))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    flags = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    log = folder / "log"
    with log.open("wb") as output:
        server = guard.run([prometheus, *(f"--{n}={v}" for n, v in flags.items())], stdout=output, stderr=output)

    def ask(expression: str) -> list[dict]:
        deadline = time.monotonic() + 30
        url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    found: list[dict] = json.load(answer)["data"]["result"]
                if found:
                    return found
            except OSError:
                assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"nothing for {expression}: {log.read_text()[-2000:]}"
            time.sleep(0.2)

    yield ask
    server.stop()


def value(samples: list[dict]) -> float:
    (sample,) = samples
    return float(sample["value"][1])


def test_prometheus_scrapes_the_worker(query: Query) -> None:
    assert value(query("up > 0")) == 1
    assert value(query("trunkline_audio_processed_seconds_total")) > 500
    assert len(query("trunkline_lag_seconds")) == PARTITIONS
    assert value(query("sum(trunkline_partitions_assigned)")) == PARTITIONS
    assert value(query("trunkline_streams_started_total")) >= 20
    assert value(query("trunkline_batch_streams_sum / trunkline_batch_streams_count")) > 1
    assert value(query("histogram_quantile(0.95, trunkline_step_duration_seconds_bucket)")) > 0
    assert value(query("trunkline_partial_delay_seconds_count")) > 20
    assert value(query("trunkline_final_delay_seconds_count")) > 20
    (model,) = query("trunkline_model_info")
    assert model["metric"]["look_ahead"] == "6"
    assert model["metric"]["id"].startswith("demo@")


def test_lag_is_zero_when_nothing_waits(query: Query, service: Service) -> None:
    deadline = time.monotonic() + 10
    while value(query("max(trunkline_lag_seconds)")) > 0:
        assert time.monotonic() < deadline, query("trunkline_lag_seconds")
        time.sleep(0.5)
    assert service.worker.metric("trunkline_streams", state="open") == 0
    assert service.worker.metric("trunkline_queue_audio_seconds") == 0
    assert service.worker.metric("trunkline_unacknowledged_events") == 0


def test_the_page_is_what_promtool_wants(service: Service, calls: Round, tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    require(promtool, "no `promtool` on this machine (Debian package prometheus)")
    assert promtool is not None
    done = subprocess.run(
        [promtool, "check", "metrics"], input=service.worker.get("/metrics"), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_no_series_grows_with_the_number_of_streams(service: Service, calls: Round) -> None:
    page = service.worker.get("/metrics")
    assert not any(stream in page for stream in calls.heard)


def test_probes_tell_loading_from_ready(service: Service) -> None:
    assert service.starting == {"/healthz": 200, "/readyz": 503, "/metrics": 200, "/other": 404}
    assert service.worker.get("/readyz") == "ok\n"
    assert service.worker.get("/healthz") == "ok\n"
