"""A depthwise convolution of the encoder's step: the fast engine's, and oneDNN's by PyTorch.

    python -m bench.depthwise [--rounds 15]

One thread, kernel of nine, the widths of the demo model and of 17 x 512; the least of the rounds, in turns, in
microseconds of processor time. Last line: one JSON object, oneDNN's time to ours by width, batch and frames.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bench.turns import least
from worker.engine.fast.layer import Depthwise

TAPS = 9
REPEAT = 20


def repeated(function: Callable[[Tensor], Tensor], window: Tensor) -> None:
    for _ in range(REPEAT):
        function(window)


def onednn(kernel: Tensor, shift: Tensor, window: Tensor) -> Tensor:
    return F.conv1d(window.transpose(1, 2), kernel, shift, groups=len(shift)).transpose(1, 2)


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("width", "batch", "frames", "oneDNN us", "ours us", "oneDNN / ours")
    ratios: dict[str, float] = {}
    for width in (144, 512):
        kernel, shift = torch.randn(width, 1, TAPS), torch.randn(width)
        ours = Depthwise(kernel, shift)
        for batch in (1, 8, 32):
            for frames in (1, 2, 7, 14, 28):
                window = torch.randn(batch, frames + TAPS - 1, width)
                theirs = partial(onednn, kernel, shift)
                torch.testing.assert_close(ours(window), theirs(window), atol=1e-4, rtol=1e-4)
                timed = {"oneDNN": partial(repeated, theirs, window), "ours": partial(repeated, ours, window)}
                found = least(timed, options.rounds)
                ratio = found["oneDNN"] / found["ours"]
                ratios[f"{width},{batch},{frames}"] = round(ratio, 2)
                micro = [f"{1e6 * value / REPEAT:.0f}" for value in found.values()]
                table.add_row(str(width), str(batch), str(frames), *micro, f"{ratio:.1f}")
    Console(width=100).print(table)
    print(json.dumps(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
