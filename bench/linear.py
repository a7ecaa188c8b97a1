"""Linear maps of a few rows: the fast engine's, and PyTorch's `F.linear`.

    python -m bench.linear [--rounds 9]

One thread, weights from memory (many of them in turns), the maps of the demo model, 17 x 512 and 24 x 1024; the least
of the rounds, in milliseconds of processor time. Last line: one JSON object, PyTorch's time to ours by outputs, inputs
and rows.
"""

import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from worker.engine.fast.linear import linear

MAPS = [(4 * d, d) for d in (176, 512, 1024)] + [(3 * 512, 512), (2 * 512, 512), (512, 512)]
ROWS = (2, 4, 8)
BYTES = 60_000_000  # of weights: more than a processor's caches hold


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("outputs", "inputs", "rows", "PyTorch ms", "ours ms", "PyTorch / ours")
    ratios: dict[str, float] = {}
    for outputs, inputs in MAPS:
        weights = [torch.randn(outputs, inputs) for _ in range(BYTES // (4 * outputs * inputs))]
        bias = torch.randn(outputs)
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            torch.testing.assert_close(linear(x, weights[0], bias), F.linear(x, weights[0], bias), atol=1e-3, rtol=1e-3)
            found = {function: float("inf") for function in (F.linear, linear)}
            for _ in range(options.rounds):
                for function in found:
                    began = time.process_time()
                    for weight in weights:
                        function(x, weight, bias)
                    found[function] = min(found[function], (time.process_time() - began) / len(weights))
            theirs, ours = found.values()
            ratios[f"{outputs},{inputs},{rows}"] = round(theirs / ours, 2)
            table.add_row(
                *map(str, (outputs, inputs, rows)), f"{1e3 * theirs:.3f}", f"{1e3 * ours:.3f}", f"{theirs / ours:.2f}"
            )
    Console(width=100).print(table)
    print(json.dumps(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
