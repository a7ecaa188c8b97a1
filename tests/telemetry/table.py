"""docs/metrics.md as data, and a /metrics page in the same shape."""

import re
from pathlib import Path

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from worker.telemetry.metrics import Metrics

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SCRAPED = {"job", "instance"}  # labels that Prometheus adds
COLUMNS = 6  # metric, type, labels, unit, what it is, what to do
UNITS = {"_seconds": {"s", "s of audio"}, "_bytes": {"bytes"}}  # of a name's end; all others count things

Shape = tuple[str, frozenset[str]]  # type, labels


def rows() -> list[list[str]]:
    """The cells of each metric's row."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == COLUMNS and cells[0].startswith("`trunkline_"):
            found.append([cells[0].strip("`"), *cells[1:]])
    return found


def documented() -> dict[str, Shape]:
    """By the name that a query uses: counters with `_total`, histograms without a suffix."""
    found = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, *_ in rows()}
    assert len(found) == len(rows()), "a metric is documented twice"
    return found


def units() -> dict[str, str]:
    return {name: unit for name, _, _, unit, *_ in rows()}


def exported(page: str) -> dict[str, Shape]:
    """What a page of ours exports. A family without a sample has no labels yet."""
    found = {}
    for family in text_string_to_metric_families(page):
        if family.name.startswith("trunkline_"):
            name, kind = _asked_for_as(family.name, family.type)
            labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
            found[name] = (kind, labels)
    return found


def samples() -> dict[str, frozenset[str]]:
    """Labels by the name of a sample: all that a query may ask for, after docs/metrics.md, and the process."""
    found = {}
    for name, (kind, labels) in documented().items():
        for sample in series(name, kind):
            found[sample] = labels | ({"le"} if kind == "histogram" else frozenset())
    for family in text_string_to_metric_families(generate_latest(Metrics().registry).decode()):
        if family.name.startswith("process_"):
            found |= {sample.name: frozenset() for sample in family.samples}
    return found


def series(name: str, kind: str) -> set[str]:
    """The names of a metric's samples."""
    return {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}


def _asked_for_as(family: str, kind: str) -> tuple[str, str]:
    if kind == "counter":
        return f"{family}_total", kind
    if family.endswith("_info"):
        return family, "info"  # the text format calls it a gauge
    return family, kind
