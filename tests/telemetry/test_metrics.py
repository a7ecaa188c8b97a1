"""What a Prometheus sees: names, units and the text format."""

import re
import shutil
import subprocess
from itertools import pairwise

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import require
from tests.telemetry.table import UNITS, documented, exported, units
from wire import REASONS
from worker.telemetry.build import build_info
from worker.telemetry.metrics import PHASES, Metrics

LOOK_AHEADS_S = (0.08, 0.16, 0.56, 1.12)  # chunk durations of the usual look-aheads


@pytest.fixture
def metrics():
    return Metrics()


def page(metrics):
    return generate_latest(metrics.registry).decode()


def test_the_table_names_every_metric_and_no_other(metrics):
    """Labels are compared on a running worker's page: tests/integration/test_telemetry.py."""
    found = exported(page(metrics))
    assert {name: kind for name, (kind, _) in found.items()} == {name: kind for name, (kind, _) in documented().items()}


def test_every_metric_has_a_help_text(metrics):
    for family in text_string_to_metric_families(page(metrics)):
        assert family.documentation, family.name


def test_names_follow_the_conventions():
    for name, (kind, labels) in documented().items():
        assert re.fullmatch(r"trunkline(_[a-z0-9]+)+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(ms|us|milliseconds|minutes|kb|mb|percent)(_|$)", name)
        assert not labels & {"stream", "stream_id", "call", "call_id", "le", "instance", "job"}


def test_a_name_ends_with_its_unit():
    for name, unit in units().items():
        ending = next((end for end in UNITS if name.removesuffix("_total").endswith(end)), None)
        assert unit in UNITS[ending] if ending else unit not in {"s", "s of audio", "bytes"}, (name, unit)


def test_the_process_is_measured_too(metrics):
    assert "process_resident_memory_bytes" in page(metrics)
    assert "process_cpu_seconds_total" in page(metrics)


@pytest.mark.parametrize(("metric", "low", "high"), [("partial_delay", 0.08, 60), ("step", 0.005, 1.12)])
def test_buckets_cover_what_is_promised(metrics, metric, low, high):
    bounds = getattr(metrics, metric)._upper_bounds
    assert bounds == sorted(bounds)
    assert bounds[0] <= low
    assert bounds[-2] >= high  # the last is infinity


@pytest.mark.parametrize("metric", ["partial_delay", "final_delay", "utterance_delay", "step", "phase"])
def test_a_step_can_be_told_from_one_that_is_twice_as_long_at_every_deadline(metrics, metric):
    found = getattr(metrics, metric)
    bounds = found._kwargs["buckets"] if found._labelnames else found._upper_bounds
    for deadline in LOOK_AHEADS_S:
        assert deadline in bounds
        assert any(deadline / 2 <= bound < deadline for bound in bounds)


@pytest.mark.parametrize("metric", ["partial_delay", "final_delay", "utterance_delay", "commit"])
def test_a_quantile_of_a_delay_is_at_most_half_as_much_again(metrics, metric):
    """From the shortest deadline on: Prometheus knows of a delay no more than the bucket that it is in."""
    bounds = [bound for bound in getattr(metrics, metric)._upper_bounds[:-1] if bound >= min(LOOK_AHEADS_S)]
    assert all(above / below <= 1.5 for below, above in pairwise(bounds))


def test_a_rate_exists_before_the_first_time(metrics):
    text = page(metrics)
    for reason in REASONS:
        assert f'trunkline_records_rejected_total{{reason="{reason}"}} 0.0' in text
    for outcome in ("committed", "aborted", "lost"):
        assert f'trunkline_transactions_total{{outcome="{outcome}"}} 0.0' in text
    for phase in PHASES:
        assert f'trunkline_step_phase_duration_seconds_count{{phase="{phase}"}} 0.0' in text


def test_the_build_is_named_by_versions():
    found = build_info()
    assert set(found) == documented()["trunkline_build_info"][1]
    assert re.match(r"\d+\.\d+", found["torch"])
    assert re.match(r"\d+\.\d+", found["nemo"])


def test_promtool_finds_nothing_to_say(metrics):
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (Debian: prometheus)")
    text = "\n".join(line for line in page(metrics).splitlines() if "trunkline_" in line)
    checked = subprocess.run(
        [str(promtool), "check", "metrics"], input=f"{text}\n", capture_output=True, text=True, timeout=60, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
