"""What a real Prometheus and an orchestrator see of a worker."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.dashboards.files import FOLDER
from deploy.prometheus import JOB, LocalPrometheus, Sample
from tests.conftest import PARTITIONS, require
from tests.integration.conftest import Round, Service, local_prometheus
from tests.telemetry.table import documented, exported
from worker.telemetry.metrics import PHASES

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

Query = Callable[[str], list[Sample]]


@pytest.fixture(scope="module")
def prometheus(service: Service, calls: Round) -> Iterator[LocalPrometheus]:
    """It scrapes the shared worker."""
    with local_prometheus([service.worker.address.removeprefix("http://")]) as server:
        yield server


@pytest.fixture(scope="module")
def query(prometheus: LocalPrometheus) -> Query:
    """Instant queries that wait for an answer: a list of samples."""

    def ask(expression: str) -> list[Sample]:
        deadline = time.monotonic() + 30
        while not (found := prometheus.query(expression)):
            assert time.monotonic() < deadline, f"nothing for {expression}"
            time.sleep(0.2)
        return found

    return ask


def value(samples: list[Sample]) -> float:
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


def test_every_query_of_the_dashboards_is_answered(prometheus: LocalPrometheus, query: Query, service: Service) -> None:
    """With numbers, unless the query shows only what is wrong."""
    instance = query("up > 0")[0]["metric"]["instance"]
    time.sleep(3)  # a rate needs some scrapes
    filled = {"$job": JOB, "$instance": instance, "$__rate_interval": "30s"}
    queries = [
        target["expr"]
        for path in FOLDER.glob("*.json")
        for panel in json.loads(path.read_text())["panels"]
        for target in panel["targets"]
    ]
    assert len(queries) > 80
    for expression in queries:
        for name, number in filled.items():
            expression = expression.replace(name, number)
        found = prometheus.query(expression)
        assert found or expression.endswith("> 0") or "> 0.01" in expression, expression


def test_lag_is_zero_when_nothing_waits(query: Query, service: Service) -> None:
    deadline = time.monotonic() + 10
    while value(query("max(trunkline_lag_seconds)")) > 0:
        assert time.monotonic() < deadline, query("trunkline_lag_seconds")
        time.sleep(0.5)
    assert service.worker.metric("trunkline_streams_open") == 0
    assert service.worker.metric("trunkline_queue_audio_seconds") == 0
    assert service.worker.metric("trunkline_unpublished_events") == 0
    assert service.worker.metric("trunkline_lag_audio_seconds") == service.worker.metric("trunkline_lag_records") == 0


def test_the_page_is_what_the_table_says(service: Service, calls: Round) -> None:
    """docs/metrics.md: every metric of a running worker, its type and its labels, and no other."""
    assert exported(service.worker.get("/metrics")) == documented()


def test_the_time_of_a_step_is_that_of_its_phases(service: Service, calls: Round) -> None:
    worker = service.worker
    steps = worker.metric("trunkline_step_duration_seconds_count")
    for phase in PHASES:
        assert worker.metric("trunkline_step_phase_duration_seconds_count", phase=phase) == steps
    whole = worker.metric("trunkline_step_duration_seconds_sum")
    assert 0.9 * whole < worker.metric("trunkline_step_phase_duration_seconds_sum") <= whole
    assert worker.metric("trunkline_step_phase_duration_seconds_sum", phase="encoder") > 0.2 * whole
    assert worker.metric("trunkline_chunk_duration_seconds") == 0.56


def test_the_capacities_are_those_of_the_settings(service: Service) -> None:
    worker = service.worker
    assert worker.metric("trunkline_slots") == 64
    assert worker.metric("trunkline_batch_capacity_streams") == 32
    assert worker.metric("trunkline_queue_capacity_audio_seconds") == 512e6 / 4 / 16_000  # of 32 bit
    resident = worker.metric("process_resident_memory_bytes")
    assert 64 * 500_000 < worker.metric("trunkline_arena_bytes") < resident < 8e9


def test_what_was_read_was_heard_and_told(service: Service, calls: Round) -> None:
    worker = service.worker
    time.sleep(1)  # it is counted twice a second
    read = worker.metric("trunkline_audio_read_seconds_total")
    assert read > 500
    assert read >= calls.audio_s - 0.001  # a sum of many floats
    ended = worker.metric("trunkline_streams_ended_total")
    assert ended == worker.metric("trunkline_streams_started_total") >= len(calls.heard)
    assert worker.metric("trunkline_events_total", type="end") == ended
    utterances = worker.metric("trunkline_events_total", type="utterance")
    assert utterances == worker.metric("trunkline_utterance_delay_seconds_count") > 20
    assert worker.metric("trunkline_kafka_request_duration_seconds_count", request="EndTxn") > 0
    assert worker.metric("trunkline_partitions_read") == PARTITIONS
    assert worker.metric("trunkline_restore_duration_seconds_count") >= PARTITIONS


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
