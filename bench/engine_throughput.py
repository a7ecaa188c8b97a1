"""Audio seconds per second of whole engines: ours, NeMo's streaming pipelines, sherpa-onnx.

    python -m bench.engine_throughput [--models demo,17x512] [--look-aheads 0,1,6] [--batches 1,8,32] [--threads 1]

Features, encoder and greedy decoder, on streams of speech from `demo/`'s evaluation set that are all equally long. In
every cell the engines take TURN chunks of all streams in turn (a chunk of another engine between two of its own would
empty an engine's caches); the first chunks are not counted. Time is processor time with one thread, which other work
on the machine disturbs less, and wall time with more. The word error rate of what each made of the whole streams
stands beside its speed, for the demo model. The other one's weights are random, its chunks fewer, and its RNN-T says
nothing, as in silence: left alone it would say as much as it may in every frame. Last line: one JSON object; `vs_nemo`
(by look-ahead) and `vs_sherpa` are the least ratios of audio seconds per second of all cells.
"""

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch
from omegaconf import open_dict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.encoder import integers
from bench.models import MODELS
from bench.peer_nemo import NemoPipeline
from bench.peer_sherpa import Sherpa, export
from tests.engine.speech import RATE, evaluation
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode, Row, Samples
from worker.engine.model import SpeechModel

BATCHES = {"demo": (1, 8, 32), "17x512": (8,)}
SECONDS = {"demo": 6.0, "17x512": 5.0}  # of each stream, at least
WARM_UP = 2  # chunks
TURN = 10  # chunks
GOALS = {"NeMo": (3.0, (0, 1)), "sherpa-onnx": (1.5, (0, 1, 6))}  # ratios, and look-aheads


@dataclass
class Result:
    """One engine in one cell."""

    model: str
    decoder: str
    look_ahead: int
    batch: int
    engine: str
    audio_s_per_s: float
    wer: float | None


class Ours:
    """The fast engine behind the same interface as its peers."""

    tail = 0  # samples that it hears after a stream's own

    def __init__(self, model: SpeechModel, look_ahead: int, decoder: str, batch: int) -> None:
        self._engine = FastEngine(model, batch)
        self._mode = Mode(look_ahead, decoder)
        self._engine.warm_up(self._mode, batch)

    def play(self, signals: Sequence[Samples], chunk: int, texts: list[str]) -> Iterator[None]:
        """The last step takes the rest: its chunk and the 12 ms that a chunk's last window reaches beyond it."""
        engine, geometry = self._engine, self._engine.info.geometry
        steps = -(-len(signals[0]) // chunk)
        ids: list[list[int]] = [[] for _ in signals]
        for slot in range(len(signals)):
            engine.open(slot, self._mode)
        position = 0
        for number in range(steps):
            last = number == steps - 1
            end = len(signals[0]) if last else geometry.chunk_end(self._mode.look_ahead, number)
            rows = [Row(slot, signal[position:end], last) for slot, signal in enumerate(signals)]
            for row, tokens in zip(ids, engine.step(rows), strict=True):
                row += tokens.ids
            position = end
            yield
        pieces = engine.info.pieces
        texts[:] = ["".join(pieces[label] for label in row).replace("\u2581", " ").strip() for row in ids]


def hush(model: SpeechModel) -> None:
    """Let nothing but the blank win in a random model's RNN-T."""
    with torch.no_grad():
        model.nemo.joint.joint_net[-1].bias[-1] = 1e4


def streams(batch: int, seconds: float) -> tuple[list[Samples], list[str]]:
    """Equally long streams, each of whole utterances with silence after them, and what is said in them."""
    utterances = iter(evaluation("seen"))
    signals, texts = [], []
    for _ in range(batch):
        parts, said = [], []
        while sum(map(len, parts)) < seconds * RATE:
            samples, text = next(utterances, (None, ""))
            if samples is None:
                utterances = iter(evaluation("seen"))
                continue
            parts.append(samples)
            said.append(text)
        signals.append(np.concatenate(parts))
        texts.append(" ".join(said))
    longest = max(map(len, signals))
    return [np.pad(signal, (0, longest - len(signal))) for signal in signals], texts


def race(
    engines: dict[str, Any], signals: list[Samples], chunk: int, advance: Any
) -> dict[str, tuple[float, list[str]]]:
    """Audio seconds per second, and texts, of engines that take some chunks each in turn."""
    texts: dict[str, list[str]] = {name: [] for name in engines}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    running = {name: engine.play(signals, chunk, texts[name]) for name, engine in engines.items()}
    spent = dict.fromkeys(engines, 0.0)
    steps = -(-len(signals[0]) // chunk)
    for begin in range(0, steps, TURN):
        turn = range(begin, min(begin + TURN, steps))
        for name, steps_of in running.items():
            for number in turn:
                began = clock()
                next(steps_of)
                if number >= WARM_UP:
                    spent[name] += clock() - began
        advance(len(turn))
    for steps_of in running.values():
        if next(steps_of, "end") != "end":
            raise SystemExit("an engine takes more steps than the others")
    counted = {name: len(signals[0]) - WARM_UP * chunk + engine.tail for name, engine in engines.items()}
    return {name: (len(signals) * counted[name] / RATE / spent[name], texts[name]) for name in engines}


def measure(name: str, options: argparse.Namespace, folder: Path, progress: Progress) -> list[Result]:
    model = MODELS[name]()
    if name != "demo":
        hush(model)
        with open_dict(model.nemo.cfg):  # where the pipelines look for it; our recipes give it in samples
            model.nemo.cfg.preprocessor.window_stride = 0.01
    path = folder / f"{name}.nemo"
    model.nemo.save_to(str(path))
    found = []
    for look_ahead in options.look_aheads:
        exported = export(MODELS[name](), look_ahead, folder) if name == "demo" else None
        for decoder in reversed(model.info.decoders):
            for batch in (batch for batch in BATCHES[name] if batch in options.batches):
                signals, said = streams(batch, SECONDS[name])
                chunk = model.info.geometry.chunk_samples(look_ahead)
                context = model.left_context[look_ahead], look_ahead
                engines: dict[str, Any] = {
                    "ours": Ours(model, look_ahead, decoder, batch),
                    "NeMo": NemoPipeline(str(path), context, decoder, batch),
                }
                if exported and decoder == "ctc":
                    engines["sherpa-onnx"] = Sherpa(*exported, options.threads)
                steps = -(-len(signals[0]) // chunk)
                task = progress.add_task(f"{name} {decoder} {look_ahead}/{batch}", total=steps)
                outcome = race(engines, signals, chunk, lambda n, task=task: progress.advance(task, n))
                for engine, (speed, texts) in outcome.items():
                    wer = 100 * jiwer.wer(said, texts) if name == "demo" else None
                    found.append(Result(name, decoder, look_ahead, batch, engine, speed, wer))
                    progress.console.print(found[-1])
    return found


def show(results: list[Result], console: Console) -> None:
    table = Table("model", "decoder", "look-ahead", "batch", title="audio seconds per second (word error rate, %)")
    names = list(dict.fromkeys(result.engine for result in results))
    for name in names:
        table.add_column(name)
    for name in names[1:]:
        table.add_column(f"ours / {name}")
    for key, cell in cells(results).items():
        speeds = [
            f"{cell[name].audio_s_per_s:.1f}" + (f" ({cell[name].wer:.1f})" if cell[name].wer is not None else "")
            if name in cell
            else ""
            for name in names
        ]
        table.add_row(*map(str, key), *speeds, *(ratio(cell, name) for name in names[1:]))
    console.print(table)


def cells(results: list[Result]) -> dict[tuple[str, str, int, int], dict[str, Result]]:
    found: dict[tuple[str, str, int, int], dict[str, Result]] = {}
    for result in results:
        key = result.model, result.decoder, result.look_ahead, result.batch
        found.setdefault(key, {})[result.engine] = result
    return found


def ratio(cell: dict[str, Result], peer: str) -> str:
    return f"{cell['ours'].audio_s_per_s / cell[peer].audio_s_per_s:.2f}" if peer in cell else ""


def worst(results: list[Result], peer: str) -> dict[str, float]:
    """The least ratio of all cells, by look-ahead."""
    found: dict[str, float] = {}
    for (_, _, look_ahead, _), cell in cells(results).items():
        if peer in cell:
            found[str(look_ahead)] = min(found.get(str(look_ahead), float("inf")), float(ratio(cell, peer)))
    return found


def missed(results: list[Result]) -> list[str]:
    """Cells that are under a goal."""
    return [
        f"{' '.join(map(str, key))}: {ratio(cell, peer)} of {goal}"
        for peer, (goal, look_aheads) in GOALS.items()
        for key, cell in cells(results).items()
        if peer in cell and key[2] in look_aheads and float(ratio(cell, peer)) < goal
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default=",".join(BATCHES))
    parser.add_argument("--look-aheads", type=integers, default=[0, 1, 6])
    parser.add_argument("--batches", type=integers, default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("nemo_logger").setLevel(logging.ERROR)
    began = time.perf_counter()
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder, Progress(console=Console(stderr=True)) as progress:
        for name in options.models.split(","):
            results += measure(name, options, Path(folder), progress)
    console = Console(width=150)
    show(results, console)
    console.print("under their goals: " + ("; ".join(missed(results)) or "none"))
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, {options.threads} thread(s), torch {torch.__version__}, "
        f"nemo_toolkit {version('nemo_toolkit')}, sherpa-onnx {version('sherpa-onnx')}; "
        f"{time.perf_counter() - began:.0f} s"
    )
    print(
        json.dumps(
            {
                "vs_nemo": worst(results, "NeMo"),
                "vs_sherpa": min(worst(results, "sherpa-onnx").values(), default=None),
                "audio_s_per_s": {
                    " ".join(map(str, key)): {name: round(result.audio_s_per_s, 1) for name, result in cell.items()}
                    for key, cell in cells(results).items()
                },
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
