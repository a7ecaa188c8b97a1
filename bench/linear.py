"""Linear maps of 1 to 128 rows: PyTorch's `F.linear`, and the engine's own product of packed weights.

    python -m bench.linear [--rounds 9]

One thread, weights from memory (many of them in turns), the maps of the demo model, 17 x 512 and 24 x 1024; the least
of the rounds, in milliseconds of processor time. GB/s: of ours, the weights once. GMAC/s: of ours, 10^9 multiply-adds
a second. Last line: one JSON object, PyTorch's time to ours by outputs, inputs and rows.
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
from worker.engine import native
from worker.engine.fast.linear import Linear

MAPS = [(4 * d, d) for d in (144, 512, 1024)] + [(3 * 512, 512), (2 * 512, 512), (512, 512)]
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
BYTES = 60_000_000  # of weights: more than a processor's caches hold


def through(maps: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> None:
    for each in maps:
        each(x)


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if not native.loaded():
        print(f"no product of our own: it is for {native.FOR}, and `{native.COMMAND}` compiles it", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    table = Table("outputs", "inputs", "rows", "PyTorch ms", "ours ms", "PyTorch / ours", "GB/s", "GMAC/s")
    ratios: dict[str, float] = {}
    for outputs, inputs in MAPS:
        weights = [torch.randn(outputs, inputs) for _ in range(BYTES // (4 * outputs * inputs))]
        bias = torch.randn(outputs)
        theirs = [partial(F.linear, weight=weight, bias=bias) for weight in weights]
        ours = [Linear(weight, bias, torch.float32) for weight in weights]
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            torch.testing.assert_close(ours[0](x), theirs[0](x), atol=1e-3, rtol=1e-3)
            timed = {"PyTorch": partial(through, theirs, x), "ours": partial(through, ours, x)}
            their_s, our_s = (seconds / len(weights) for seconds in least(timed, options.rounds).values())
            ratios[f"{outputs},{inputs},{rows}"] = round(their_s / our_s, 2)
            table.add_row(
                *map(str, (outputs, inputs, rows)),
                f"{1e3 * their_s:.3f}",
                f"{1e3 * our_s:.3f}",
                f"{their_s / our_s:.2f}",
                f"{4e-9 * outputs * inputs / our_s:.1f}",
                f"{1e-9 * rows * outputs * inputs / our_s:.1f}",
            )
    Console(width=100).print(table)
    print(json.dumps(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
