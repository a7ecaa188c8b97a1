"""Workers under fire: kills, stand-stills, rebalances, brokers and Redis that go away, while calls are heard.

    python -m tests.chaos [--minutes 3] [--kills 0] [--seed N] [--store redis]

What a `read_committed` reader sees then must be what an undisturbed worker makes of the same audio. Prints the faults
by kind, the figures, and one JSON object last; exit code 1 if anything is lost, doubled or different, or if
the run comes to no verdict (the object has the seed and the `error` then).
"""

import argparse
import json
import os
import platform
import sys
import time
import traceback

from rich.console import Console
from rich.table import Table

from demo.score import percentile
from deploy.zygote import Zygote
from tests.chaos.run import Plan, Result, run


def show(result: Result, console: Console) -> None:
    table = Table("fault", "times", title=f"seed {result.plan.seed}, state in {result.plan.store}")
    for kind, times in sorted((result.faults + result.damage).items()):
        table.add_row(kind, str(times))
    console.print(table)
    verdict = result.verdict
    console.print(
        f"{result.calls} calls, {result.audio_s:.0f} s of audio, {verdict.compared} events compared: "
        f"{verdict.lost} lost, {verdict.doubled} doubled, {verdict.differing} differing"
    )
    console.print(f"{result.refused} transactions aborted and written again, since the broker refused a send in them")
    console.print(
        f"recovery: p50 {percentile(result.recoveries, 50):.1f} s, p95 {percentile(result.recoveries, 95):.1f} s "
        f"of {len(result.recoveries)} kills of a worker that had partitions"
    )
    if not result.good:
        console.print(f"FAILED with seed {result.plan.seed}; the workers' logs: {result.logs}", style="bold")
        for text in [verdict.first or "", *result.records, *result.crashes]:
            console.print(text, markup=False, highlight=False)


def summary(result: Result) -> dict[str, object]:
    verdict = result.verdict
    return {
        "seed": result.plan.seed,
        "store": result.plan.store,
        "kills": result.kills,
        "rebalances": result.rebalances,
        "refused": result.refused,
        "calls": result.calls,
        "finals": result.finals,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "differing": verdict.differing,
        # null: no worker that had partitions was killed
        **{
            f"recovery_p{p}_s": round(percentile(result.recoveries, p), 2) if result.recoveries else None
            for p in (50, 95)
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="faults for so long (%(default)s)")
    parser.add_argument("--kills", type=int, default=0, help="and until there were so many kills (%(default)s)")
    parser.add_argument("--seed", type=int, default=None, help="draws the same faults and calls again")
    parser.add_argument("--store", choices=("device", "redis"), default="redis")
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    console = Console(width=120)
    began = time.monotonic()

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {text}", highlight=False)

    try:
        with Zygote() as zygote:
            result = run(Plan(seed, options.store, options.minutes, options.kills), zygote, say)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"seed": seed, "store": options.store, "error": f"{error!r:.300}"}))
        return 1
    show(result, console)
    console.print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}")
    print(json.dumps(summary(result)))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
