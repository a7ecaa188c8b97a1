"""Linear maps of a few rows: the fast engine's, and PyTorch's `F.linear`.

    python -m bench.linear [--rounds 9]

One thread, weights from memory (many of them in turns), the maps of the demo model, 17 x 512 and 24 x 1024; the least
of the rounds, in milliseconds of processor time. Last line: one JSON object, PyTorch's time to ours by outputs, inputs
and rows.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.turns import least
from worker.engine.fast.linear import linear

MAPS = [(4 * d, d) for d in (144, 512, 1024)] + [(3 * 512, 512), (2 * 512, 512), (512, 512)]
ROWS = (2, 3, 4)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"PyTorch": F.linear, "ours": linear}
BYTES = 60_000_000  # of weights: more than a processor's caches hold


def through(function: Callable[..., Tensor], x: Tensor, weights: Sequence[Tensor], bias: Tensor) -> None:
    for weight in weights:
        function(x, weight, bias)


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
            timed = {name: partial(through, function, x, weights, bias) for name, function in FUNCTIONS.items()}
            theirs, ours = (value / len(weights) for value in least(timed, options.rounds).values())
            ratios[f"{outputs},{inputs},{rows}"] = round(theirs / ours, 2)
            table.add_row(
                *map(str, (outputs, inputs, rows)), f"{1e3 * theirs:.3f}", f"{1e3 * ours:.3f}", f"{theirs / ours:.2f}"
            )
    Console(width=100).print(table)
    print(json.dumps(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
