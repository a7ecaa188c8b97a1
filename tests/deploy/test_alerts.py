"""The alerts, by promtool: each case raises its alert and no other. Runbooks and rules name each other."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import require
from tests.telemetry.promql import groupings, selectors
from tests.telemetry.rules import FILE, alerts, hurried
from tests.telemetry.table import SCRAPED, samples

ROOT = Path(__file__).parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
CASES = yaml.safe_load((Path(__file__).parent / "rules" / "cases.yaml").read_text())
RULES = alerts()
SECTIONS = ["## What it means", "## How to see why", "## What to do"]


@pytest.fixture
def promtool():
    found = shutil.which("promtool")
    require(found, "promtool (Debian's package prometheus) is not installed")

    def run(*arguments, cwd=ROOT):
        return subprocess.run([found, *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)

    return run


def test_promtool_accepts_the_rules(promtool, tmp_path):
    (tmp_path / "hurried.yaml").write_text(hurried(20))
    for file in (FILE, tmp_path / "hurried.yaml"):
        done = promtool("check", "rules", str(file))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(RULES)} rules found" in done.stdout


def test_each_case_raises_its_alert_and_no_other(promtool, tmp_path):
    """In one run, since promtool takes a second to start; it names the cases that fail."""
    tests = [
        {
            "name": case["name"],
            "interval": "30s",
            "input_series": [{"series": s, "values": v} for s, v in (CASES["healthy"] | case["series"]).items()],
            "alert_rule_test": [_expected(name, case["alerts"]) for name in RULES],
        }
        for case in CASES["cases"]
    ]
    file = tmp_path / "cases.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(FILE)], "evaluation_interval": "30s", "tests": tests}))
    done = promtool("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


def _expected(name, raised):
    found = {"eval_time": "40m", "alertname": name, "exp_alerts": []}
    if name in raised:
        rule = RULES[name]
        labels = rule["labels"] | raised[name]
        found["exp_alerts"] = [{"exp_labels": labels, "exp_annotations": rule["annotations"]}]
    return found


def test_every_alert_has_a_case():
    assert set().union(*(case["alerts"] for case in CASES["cases"])) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_an_alert_stands_on_what_a_worker_exports(name):
    exported = samples() | {"up": frozenset()}
    found = selectors(RULES[name]["expr"])
    for metric, matched in found:
        assert metric in exported
        assert matched <= exported[metric] | SCRAPED
    assert groupings(RULES[name]["expr"]) <= SCRAPED | {"le"}


@pytest.mark.parametrize("name", RULES)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(name):
    rule = RULES[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"].endswith(".")
    page = ROOT / rule["annotations"]["runbook_url"]
    assert page == RUNBOOKS / f"{name}.md"
    text = page.read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## .*$", text, re.MULTILINE) == SECTIONS
    assert f"`{rule['labels']['severity']}`" in text
    _check_queries(text)


def _check_queries(text):
    """A runbook's PromQL can be pasted: lines of code, of which each page has some below how to see why."""
    see = text.partition(SECTIONS[1])[2].partition(SECTIONS[2])[0]
    assert see.startswith("\n\n    "), "it does not begin with a query"
    for query in (line.strip() for line in see.splitlines() if line.startswith("    ")):
        assert {metric for metric, _ in selectors(query)} <= set(samples()) | {"up"}, query


def test_no_runbook_is_left_over():
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"} == set(RULES)
    index = (RUNBOOKS / "README.md").read_text()
    for name, rule in RULES.items():
        assert f"[{name}]({name}.md) | {rule['labels']['severity']} | {rule['annotations']['summary']}" in index


def test_hurrying_changes_times_and_nothing_else():
    (group,) = yaml.safe_load(hurried(20))["groups"]
    quick = {rule["alert"]: rule for rule in group["rules"]}
    overloaded = quick["TrunklineOverloaded"]
    assert overloaded["for"] == "6s"
    assert "[6s]" in overloaded["expr"]
    for name, rule in RULES.items():
        assert re.sub(r"\[\w+\]", "", quick[name]["expr"]) == re.sub(r"\[\w+\]", "", rule["expr"])
