"""What the cache fault and its fix are worth in words: NeMo's stock step, the fixed update in NeMo's step, our engine.

    python -m bench.evidence [--every 3] [--minutes 10.2] [--write docs]

For the demo model (`chunked_limited`) and the second one (`regular`, right context, symmetric convolution): word error
rate of greedy decoding on `demo/`'s evaluation sets, calls and one long file; with the nine mel frames of pre-encode
context that NeMo's configuration names, and with seven more (`+7`); and with four seconds of silence after each
utterance (`+silence`), which brings out the end that NeMo's step loses in `regular`. Every step emits look-ahead + 1
frames. Step latency is processor time of the encoder's step of one stream on one thread, taken on the long file, all
steps in turn; the two models run beside each other. `--write` puts the tables into a folder's evidence.md and the
plot beside it. Last line: one JSON object; `wer` is by style, engine and case, a case with its head before it.
"""

import argparse
import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from bench.evidence.measure import MODES, Score, measure, take_turns
from bench.evidence.report import draw, markdown, steps, table

BEGIN, END = "<!-- tables: make evidence -->", "<!-- end of tables -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=3, help="utterance of the sets (%(default)s)")
    parser.add_argument("--styles", default=",".join(MODES))
    parser.add_argument("--minutes", type=float, default=10.2, help="of the long file (%(default)s)")
    parser.add_argument("--write", type=Path, help="folder of evidence.md, for the tables, and evidence.svg")
    options = parser.parse_args()
    began = time.monotonic()
    scores: list[Score] = []
    latency = {}
    styles = options.styles.split(",")
    context = get_context("spawn")
    with ProcessPoolExecutor(len(styles), context, take_turns, (context.Lock(),)) as pool:
        waiting = {style: pool.submit(measure, style, options.every, options.minutes) for style in styles}
        for style, future in waiting.items():
            found, latency[style] = future.result()
            scores += found
    scores.sort(key=lambda score: score.style)  # heads apart
    console = Console(width=150)
    shown = [table(scores), steps(latency)]
    for caption, header, rows in shown:
        view = Table(*header, title=caption)
        for row in rows:
            view.add_row(*row)
        console.print(view)
    machine = (
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"nemo_toolkit {version('nemo_toolkit')}; every {options.every}. utterance; {time.monotonic() - began:.0f} s"
    )
    print(machine)
    if options.write:
        page = options.write / "evidence.md"
        before, _, rest = page.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        page.write_text(
            f"{before}{BEGIN}\n\n![Word error rates](evidence.svg)\n\n{markdown(shown)}\n{machine}\n{END}{after}"
        )
        draw(scores, options.write / "evidence.svg")
    wer: dict[str, dict[str, dict[str, float]]] = {}
    for score in scores:
        style, head = score.style.split()
        wer.setdefault(style, {}).setdefault(score.engine, {})[f"{head} {score.case}"] = round(score.wer, 1)
    print(json.dumps({"wer": wer, "latency_ms": latency, "scores": [asdict(score) for score in scores]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
