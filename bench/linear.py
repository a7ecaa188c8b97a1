"""Linear maps of a few rows: PyTorch's `F.linear`, and the weights as the first matrix of the product.

    python -m bench.linear [--rounds 9]

One thread, weights from memory (many of them in turns), the maps of the demo model, 17 x 512 and 24 x 1024; the least
of the rounds, in milliseconds of processor time. The fast engine turns the products of FEWEST to MOST rows
(`worker/engine/fast/linear.py`). Last line: one JSON object, PyTorch's time to the turned product's by outputs, inputs
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
from worker.engine.fast.linear import FEWEST, MOST, turned

MAPS = [(4 * d, d) for d in (144, 512, 1024)] + [(3 * 512, 512), (2 * 512, 512), (512, 512)]
ROWS = (1, 2, 3, 4, 5, 6, 7, 8)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {"PyTorch": F.linear, "turned": turned}
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
    table = Table("outputs", "inputs", "rows", "PyTorch ms", "turned ms", "PyTorch / turned", "the engine")
    ratios: dict[str, float] = {}
    for outputs, inputs in MAPS:
        weights = [torch.randn(outputs, inputs) for _ in range(BYTES // (4 * outputs * inputs))]
        bias = torch.randn(outputs)
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            torch.testing.assert_close(turned(x, weights[0], bias), F.linear(x, weights[0], bias), atol=1e-3, rtol=1e-3)
            timed = {name: partial(through, function, x, weights, bias) for name, function in FUNCTIONS.items()}
            theirs, other = (value / len(weights) for value in least(timed, options.rounds).values())
            ratios[f"{outputs},{inputs},{rows}"] = round(theirs / other, 2)
            table.add_row(
                *map(str, (outputs, inputs, rows)),
                f"{1e3 * theirs:.3f}",
                f"{1e3 * other:.3f}",
                f"{theirs / other:.2f}",
                "turned" if FEWEST <= rows <= MOST and outputs > inputs else "",
            )
    Console(width=100).print(table)
    print(json.dumps(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
