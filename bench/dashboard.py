"""The service dashboard's panels as a picture, from a real Prometheus that watches a real worker through an overload.

    python -m bench.dashboard [--calm 45] [--storm 30] [--to docs/dashboard.png]

Queries, titles, units and legends are those of the dashboard's JSON; drawn by matplotlib, since no Grafana runs here.
Calm: streams in real time. Storm: three times what the engine could hear as its steps are filled then. Then calm.
"""

import argparse
import json
import math
import os
import platform
import re
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.looped import loops
from demo.__main__ import MODEL
from deploy.dashboards.files import FOLDER
from deploy.kafka import broker
from deploy.prometheus import JOB, LocalPrometheus, Sample
from deploy.worker import LocalWorker
from tests.conftest import own_topics
from tests.integration.load import Load
from tests.integration.sending import Sender

SETTINGS: dict[str, object] = {"model.threads": 1, "batching.slots": 16, "batching.max_batch": 8}
CALM_STREAMS, STORM_STREAMS = 6, 14
STORM = 3.0  # times the engine's speed
RATE = "10s"  # of $__rate_interval, at a scrape a second
STEP_S = 1.0
COLUMNS = 3
COLOURS = ("#3274d9", "#ff9830", "#56a64b", "#e02f44", "#8f3bb8", "#00a3a3", "#8d8d8d")
INK, FAINT, STORMY = "#24292e", "#8a8f94", "#fff1d6"


@dataclass(frozen=True)
class Times:
    """Unix times of one run."""

    begin: float
    storm: float
    calm: float
    end: float


def watch(calm_s: float, storm_s: float) -> tuple[list[dict[str, Any]], dict[str, list[Sample]], Times]:
    """Run the load; the dashboard's panels, and the series of each of their queries."""
    panels: list[dict[str, Any]] = json.loads((FOLDER / "service.json").read_text())["panels"]
    with broker() as servers, own_topics(servers) as topics:
        sender = Sender(servers, topics.audio)
        group = f"dashboard-{uuid.uuid4().hex[:8]}"
        with LocalWorker(servers, topics, MODEL, group, SETTINGS) as worker:
            with LocalPrometheus([worker.address.removeprefix("http://")]) as prometheus:
                every = loops(CALM_STREAMS + STORM_STREAMS)
                with Load(sender, [(f"calm-{i}", loop) for i, loop in enumerate(every[:CALM_STREAMS])]):
                    time.sleep(15)  # so that the picture begins with rates, not with their beginning
                    begin = time.time()
                    time.sleep(calm_s)
                    speed = _speed(prometheus)
                    storm = time.time()
                    pace = STORM * speed / STORM_STREAMS
                    streams = [(f"storm-{i}", loop) for i, loop in enumerate(every[CALM_STREAMS:])]
                    with Load(sender, streams, pace, ends=True):
                        time.sleep(storm_s)
                    calm = time.time()
                    _until_quiet(prometheus, calm + 6 * storm_s)
                    time.sleep(calm_s / 3)
                    end = time.time()
                found = {
                    target["expr"]: prometheus.query_range(_filled(target["expr"]), begin, end, STEP_S)
                    for panel in panels
                    for target in panel["targets"]
                }
        sender.close()
    return panels, found, Times(begin, storm, calm, end)


def _filled(expression: str) -> str:
    return expression.replace("$job", JOB).replace("$__rate_interval", RATE)


def _speed(prometheus: LocalPrometheus) -> float:
    """Seconds of audio a second that the engine could hear."""
    (sample,) = prometheus.query(
        "rate(trunkline_audio_processed_seconds_total[30s]) / rate(trunkline_step_duration_seconds_sum[30s])"
    )
    return float(sample["value"][1])


def _until_quiet(prometheus: LocalPrometheus, deadline: float) -> None:
    while time.time() < deadline:
        time.sleep(1)
        (sample,) = prometheus.query("max(trunkline_lag_seconds)")
        if float(sample["value"][1]) < 1:
            return


def draw(panels: Sequence[dict[str, Any]], found: dict[str, list[Sample]], times: Times, to: Path) -> None:
    numbers = [panel for panel in panels if panel["type"] == "stat"]
    graphs = [panel for panel in panels if panel["type"] == "timeseries"]
    rows = math.ceil(len(graphs) / COLUMNS)
    figure = Figure(figsize=(16, 2.4 + 3.35 * rows), dpi=110, facecolor="white")
    parts = figure.add_gridspec(
        2, 1, height_ratios=[0.95, 3.35 * rows], hspace=0.10, left=0.035, right=0.985, top=0.945, bottom=0.085
    )
    tiles = parts[0].subgridspec(1, len(numbers), wspace=0.08)
    for index, panel in enumerate(numbers):
        _tile(figure.add_subplot(tiles[index]), panel, found, times)
    grid = parts[1].subgridspec(rows, COLUMNS, hspace=0.62, wspace=0.16)
    for index, panel in enumerate(graphs):
        _graph(figure.add_subplot(grid[index // COLUMNS, index % COLUMNS]), panel, found, times)
    figure.text(0.035, 0.977, "Trunkline: service", fontsize=17, weight="bold", color=INK, va="center")
    storm = f"shaded: {STORM:g} times the audio that the engine could hear when calm"
    figure.text(0.985, 0.977, storm, fontsize=11, color=INK, va="center", ha="right", backgroundcolor=STORMY)
    figure.text(0.035, 0.012, _footnote(), fontsize=9, color=FAINT, va="bottom", linespacing=1.4)
    figure.savefig(to, metadata={"Software": None})


def _tile(axes: Axes, panel: dict[str, Any], found: dict[str, list[Sample]], times: Times) -> None:
    """A number as of the end, its course behind it, as Grafana does."""
    (series,) = found[panel["targets"][0]["expr"]]
    moments, values = _line(series, times)
    assert all(math.isfinite(value) for value in values), panel["title"]
    axes.fill_between(moments, values, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(moments, values, color=COLOURS[0], linewidth=0.8, alpha=0.6)
    axes.set_ylim(0, max(values) * 3.2 or 1)
    axes.set_xlim(moments[0], moments[-1])
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#dcdfe3")
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.text(0.04, 0.9, panel["title"], transform=axes.transAxes, fontsize=10, color=INK, va="top")
    shown = _number(values[-1], unit)
    axes.text(
        0.5, 0.42, shown, transform=axes.transAxes, fontsize=20, weight="bold", color=INK, ha="center", va="center"
    )
    most = f"most {_number(max(values), unit)}"
    axes.text(0.96, 0.9, most, transform=axes.transAxes, fontsize=8, color=FAINT, ha="right", va="top")


def _graph(axes: Axes, panel: dict[str, Any], found: dict[str, list[Sample]], times: Times) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    lines = [
        (_legend(target["legendFormat"], series["metric"]), *_line(series, times))
        for target in panel["targets"]
        for series in found[target["expr"]]
    ]
    axes.axvspan((times.storm - times.begin), (times.calm - times.begin), color=STORMY, linewidth=0)
    for index, (name, moments, values) in enumerate(lines):
        style = "--" if name in {"deadline", "slots", "at most"} else "-"
        axes.plot(moments, values, style, color=COLOURS[index % len(COLOURS)], linewidth=1.4, label=name)
    axes.set_title(panel["title"], fontsize=11, loc="left", color=INK, weight="bold", pad=8)
    axes.set_ylim(0, None if any(max(values) > 0 for _, _, values in lines) else 1)
    axes.set_xlim(0, times.end - times.begin)
    axes.margins(y=0.1)
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.7)
    axes.tick_params(labelsize=8, colors=FAINT, length=2)
    axes.xaxis.set_major_formatter(lambda second, _: f"{int(second) // 60}:{int(second) % 60:02d}")
    axes.yaxis.set_major_formatter(lambda value, _: _number(value, defaults["unit"]))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c4c8cc")
    if lines:
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, -0.1), ncol=3, fontsize=8, frameon=False, handlelength=1.4
        )
        for text in legend.get_texts():
            text.set_color(INK)


def _line(series: Sample, times: Times) -> tuple[list[float], list[float]]:
    """Seconds since the beginning, and values; a number that is none leaves a hole."""
    points = [(float(at) - times.begin, float(value)) for at, value in series["values"]]
    return [at for at, _ in points], [value for _, value in points]


def _legend(pattern: str, labels: dict[str, str]) -> str:
    name = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern)
    return "the worker" if re.fullmatch(r"127\.0\.0\.1:\d+", name) else name


def _number(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:.0f} %"
    if unit == "s" and 0 < value < 1:
        return f"{1000 * value:.3g} ms"
    text = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return f"{text} s" if unit == "s" else text


def _footnote() -> str:
    version = subprocess.run(["prometheus", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version ([\d.]+)", version.stdout + version.stderr)
    return (
        "Drawn by `make dashboard-picture` (bench/dashboard.py, matplotlib) from the queries of "
        "helm/trunkline/files/dashboards/service.json. This is not Grafana.\n"
        f"A worker with the demo model on {os.cpu_count()} shared cores ({platform.machine()}, no GPU), with Kafka "
        f"and the load; Prometheus {found[1] if found else '?'}, a scrape a second. Big numbers: as of the end."
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calm", type=float, default=45.0, help="seconds before the storm")
    parser.add_argument("--storm", type=float, default=30.0, help="seconds of it")
    parser.add_argument("--to", type=Path, default=Path("docs/dashboard.png"))
    options = parser.parse_args()
    panels, found, times = watch(options.calm, options.storm)
    draw(panels, found, times, options.to)
    print(f"{options.to}: {len(panels)} panels, {times.end - times.begin:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
