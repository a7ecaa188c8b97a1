"""The dashboards: committed as generated, every query PromQL on metrics that a running worker exports.

docs/metrics.md stands for the worker here; tests/integration/test_telemetry.py compares the two.
"""

import json
import shutil
import subprocess

import pytest
import yaml

from deploy.dashboards.files import FOLDER, render
from tests.conftest import require
from tests.telemetry.promql import groupings, selectors
from tests.telemetry.table import SCRAPED, samples

BOARDS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"]]
QUERIES = [(f"{name}: {panel['title']}", t["expr"]) for name, panel in PANELS for t in panel["targets"]]


def test_the_committed_files_are_what_the_code_generates():
    assert {path.name: path.read_text() for path in FOLDER.iterdir()} == render(), "run `make dashboards`"


def test_there_are_the_three_that_the_page_on_metrics_names():
    assert {board["title"] for board in BOARDS.values()} == {
        "Trunkline: service",
        "Trunkline: one worker",
        "Trunkline: delivery and state",
    }
    assert len({board["uid"] for board in BOARDS.values()}) == 3


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[f"{where} {n}" for n, (where, _) in enumerate(QUERIES)])
def test_every_query_is_promql_on_what_a_worker_exports(where, query):
    exported = samples()
    found = selectors(query)
    assert found
    for name, matched in found:
        assert name in exported, f"{where}: no worker exports {name}"
        assert matched <= exported[name] | SCRAPED, f"{where}: {name} has no such labels"
        assert "job" in matched, f"{where}: {name} is not of one deployment"
    assert groupings(query) <= SCRAPED.union(*(exported[name] for name, _ in found)), where


def test_the_check_finds_wrong_queries():
    with pytest.raises(ValueError):
        selectors('sum(rate(trunkline_streams_open{job="$job"}[5m])')
    assert selectors("histogram_quantile(0.5, sum by (le) (rate(a_bucket[1m]))) / on () b{c='d'}") == [
        ("a_bucket", set()),
        ("b", {"c"}),
    ]
    assert selectors("-deriv(sum(a{b='c'})[2m:10s])") == [("a", {"b"})]
    assert groupings("sum by (le, x) (a) / max(b)") == {"le", "x"}


@pytest.mark.parametrize(("name", "panel"), PANELS, ids=[f"{name} {panel['title']}" for name, panel in PANELS])
def test_every_panel_says_what_it_shows_and_what_to_do(name, panel):
    what, _, to_do = panel["description"].partition("\n\n**What to do:** ")
    assert what.endswith(".")
    assert len(to_do.split()) > 5
    assert to_do.endswith(".")
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    legends = [target.get("legendFormat", "") for target in panel["targets"]]
    assert panel["type"] == "stat" or all(legends), "a line has no name"


@pytest.mark.parametrize(("name", "title"), [("service.json", "Workers"), ("worker.json", "Ready")])
def test_a_worker_that_has_died_is_not_shown_as_it_was_last(name, title, tmp_path):
    """A number shows the last value of its time range: a query that ends with the worker would stay green."""
    promtool = shutil.which("promtool")
    require(promtool, "promtool (Debian's package prometheus) is not installed")
    (query,) = (t["expr"] for panel in BOARDS[name]["panels"] if panel["title"] == title for t in panel["targets"])
    asked = [("1m", 1), ("5m", 0)]
    test = {
        "interval": "30s",
        "input_series": [{"series": 'trunkline_ready{job="$job", instance="$instance"}', "values": "1x4 stale"}],
        "promql_expr_test": [
            {"expr": query, "eval_time": time, "exp_samples": [{"labels": "{}", "value": value}]}
            for time, value in asked
        ],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    command = [str(promtool), "test", "rules", str(tmp_path / "test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_names_of_their_own_and_do_not_overlap(name):
    panels = BOARDS[name]["panels"]
    for key in ("title", "id"):
        assert len({panel[key] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
