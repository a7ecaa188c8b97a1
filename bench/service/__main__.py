"""The service as a whole: Kafka, one worker, the demo model, the producer and the reader, all on this machine.

    python -m bench.service [--only throughput,delay,host,memory] [--hours 10] [--plot docs/delay.svg]

throughput: audio a second when more waits than the worker takes, as a ratio to the bare engine on the same audio, in
turns; without transactions; two workers; after a stop. delay: calls held in real time, and delays at shares of that.
host: what a record of 100 ms costs between the fetch and the session. memory: over hours of audio.
Last line: one JSON object.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.looped import loops
from bench.service import delay, host, memory
from bench.service.bare import Bare
from bench.service.throughput import caught_up, saturated
from demo.__main__ import MODEL
from deploy.kafka import broker
from deploy.zygote import Zygote

PARTS = ("throughput", "delay", "host", "memory")
STREAMS = 32  # one step's worth
SECONDS = 60.0  # of each
ROUNDS = 3
LEVEL_S = 25.0
HOST_ROUNDS = 30

Figure = dict[str, Any]
Say = Callable[[str], None]


def throughput(servers: str, zygote: Zygote, say: Say) -> Figure:
    made = (loops(20) * 2)[:STREAMS]
    found: dict[str, list[float]] = {"engine": [], "service": [], "at least once": [], "two workers": [], "after": []}
    with Bare(str(MODEL), made, SECONDS, threads=1) as bare:
        for _ in range(ROUNDS):
            found["engine"].append(bare.speed())
            found["service"].append(saturated(servers, zygote, made, SECONDS))
            found["at least once"].append(
                saturated(servers, zygote, made, SECONDS, {"kafka.delivery": "at_least_once"})
            )
            found["two workers"].append(saturated(servers, zygote, made, SECONDS, workers=2))
            found["after"].append(caught_up(servers, zygote, made, 15, SECONDS - 15))
            say(", ".join(f"{name} {values[-1]:.0f}" for name, values in found.items()))

    def over(name: str, other: str) -> float:
        """Median of the rounds' ratios: what is compared was measured within a minute or two."""
        return round(median(one / two for one, two in zip(found[name], found[other], strict=True)), 3)

    return {
        "engine_speed": round(median(found["engine"]), 1),
        "service_speed": round(median(found["service"]), 1),
        "service_over_engine": over("service", "engine"),
        "without_transactions": over("at least once", "service"),
        "two_workers_over_one": over("two workers", "service"),
        "catch_up_over_engine": over("after", "engine"),
    }


def delays(servers: str, zygote: Zygote, say: Say, first: int, plot: Path | None) -> Figure:
    found = delay.measure(servers, zygote, first, LEVEL_S, say)
    if plot is not None:
        from bench.service.plot import draw

        draw(found, plot, f"demo model, look-ahead 6, {os.cpu_count()} cores for everything")
    keys = ("p50_ms", "p95_ms", "p99_ms", "finals_p50_ms", "finals_p95_ms", "finals_p99_ms")
    return {
        "realtime_calls": found.held,
        "delay_p95_ms": {str(share): round(row["p95_ms"]) for share, row in found.loads.items()},
        "delays": {str(share): {key: round(row[key]) for key in keys} for share, row in found.loads.items()},
    }


def record_cost(servers: str) -> Figure:
    narrow = [loop for loop in loops(20) if loop.rate == 8000]
    found = host.cost(servers, narrow, HOST_ROUNDS)
    return {
        "host_us_per_chunk": round(found.least, 1),
        "host_us_median": round(found.usual, 1),
        "host_parts_us": {name: round(value, 1) for name, value in found.parts.items()},
    }


def memory_over_hours(servers: str, zygote: Zygote, say: Say, hours: float) -> Figure:
    found = memory.measure(servers, zygote, (loops(20) * 2)[:STREAMS], hours, say)
    return {
        "hours": round(found.hours, 2),
        "rss_growth_mb": round(found.growth_mb, 1),
        "rss_warm_mb": round(found.first_mb),
        "rss_last_mb": round(found.last_mb),
    }


def show(figures: Mapping[str, Any], console: Console) -> None:
    table = Table("figure", "value", title="the service, demo model, look-ahead 6")
    for name, value in figures.items():
        cells = value.items() if isinstance(value, dict) else [("", value)]
        for key, cell in cells:
            table.add_row(f"{name} {key}".strip(), str(cell))
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas (%(default)s)")
    parser.add_argument("--hours", type=float, default=10.0, help="of audio, for the memory (%(default)s)")
    parser.add_argument("--first-level", type=int, default=24, help="calls that the search begins with (%(default)s)")
    parser.add_argument("--plot", type=Path, help="an SVG file for the delays")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    console = Console(width=120)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:4.0f} s  {text}", highlight=False)

    figures: Figure = {}
    with broker() as servers:
        if "host" in wanted:  # first: a worker that starts shares the processor's caches
            figures |= record_cost(servers)
            say(f"host {figures['host_us_per_chunk']} us a record")
        if wanted != ["host"]:
            with Zygote() as zygote:
                if "throughput" in wanted:
                    figures |= throughput(servers, zygote, say)
                if "delay" in wanted:
                    figures |= delays(servers, zygote, say, options.first_level, options.plot)
                if "memory" in wanted:
                    figures |= memory_over_hours(servers, zygote, say, options.hours)
    show(figures, console)
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
