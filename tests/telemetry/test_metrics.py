"""What a Prometheus sees: names, units and the text format."""

import re
import shutil
import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import require
from worker.telemetry.metrics import Metrics


def used():
    """Metrics of a worker that has done everything once."""
    metrics = Metrics()
    for state in ("active", "spilled", "waiting", "open"):
        metrics.streams.labels(state).set(1)
    metrics.rejected.labels("malformed").inc()
    metrics.lag.labels("3").set(0.5)
    metrics.model.info({"id": "m", "look_ahead": "6", "decoder": "rnnt"})
    for histogram in (metrics.batch, metrics.step, metrics.partial_delay, metrics.final_delay):
        histogram.observe(1)
    return metrics


def families():
    text = generate_latest(used().registry).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def ours():
    return {name: family for name, family in families().items() if name.startswith("trunkline_")}


def test_every_metric_is_there_with_a_help_text():
    found = ours()
    assert {
        "trunkline_streams",
        "trunkline_slots",
        "trunkline_queue_audio_seconds",
        "trunkline_batch_streams",
        "trunkline_step_duration_seconds",
        "trunkline_partial_delay_seconds",
        "trunkline_final_delay_seconds",
        "trunkline_lag_seconds",
        "trunkline_records_read",
        "trunkline_records_rejected",
        "trunkline_model_info",
    } <= set(found)
    assert all(family.documentation for family in found.values())


def test_names_follow_the_conventions():
    for name, family in ours().items():
        assert re.fullmatch(r"trunkline(_[a-z0-9]+)+", name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
            assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)(_|$)", sample.name)
            assert set(sample.labels) <= {"state", "partition", "reason", "le", "id", "look_ahead", "decoder"}


def test_the_process_is_measured_too():
    found = families()
    assert "process_cpu_seconds" in found
    assert "process_resident_memory_bytes" in found


@pytest.mark.parametrize(("metric", "low", "high"), [("partial_delay", 0.08, 60), ("step", 0.005, 1.12)])
def test_buckets_cover_what_is_promised(metric, low, high):
    bounds = getattr(used(), metric)._upper_bounds
    assert bounds == sorted(bounds)
    assert bounds[0] <= low
    assert bounds[-2] >= high  # the last is infinity


def test_promtool_finds_nothing_to_say():
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (Debian: prometheus)")
    text = "\n".join(line for line in generate_latest(used().registry).decode().splitlines() if "trunkline_" in line)
    checked = subprocess.run(
        [str(promtool), "check", "metrics"], input=f"{text}\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
