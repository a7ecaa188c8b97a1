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
import copy
import json
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile
import soxr
import torch
from rich.console import Console
from rich.table import Table

from bench.bars import Group, bars
from bench.models import shipped
from bench.nemo_step import CORRECT, NemoStep
from demo.score import CALLS, percentile, references
from tests.engine.play import Player, Take, offline, offline_mels, play
from tests.engine.speech import RATE, evaluation, recording
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode, Samples
from worker.engine.model import SpeechModel

MODES = {"chunked_limited": ("demo", (70, 1)), "regular": ("regular", (20, 2))}
ENGINES = ("offline", "stock", "fixed", "ours")
SEVEN = 7
SILENCE = np.zeros(4 * RATE, np.float32)
GROUP = 32  # utterances in one batch
BEGIN, END = "<!-- tables: make evidence -->", "<!-- end of tables -->"

Case = list[tuple[Samples, str]]

# held by the process that hears the long file offline: full attention over ten minutes takes 8 GB
TURN: Any = nullcontext()


def take_turns(lock: Any) -> None:
    """In a process of the pool."""
    global TURN
    TURN = lock


@dataclass(frozen=True)
class Score:
    """Errors of one engine on one case, in words."""

    style: str
    engine: str
    case: str
    words: int
    deletions: int
    insertions: int
    substitutions: int

    @property
    def wer(self) -> float:
        return 100 * (self.deletions + self.insertions + self.substitutions) / self.words


def cases(every: int, minutes: float) -> dict[str, Case]:
    utterances = {name: evaluation(name)[::every] for name in ("seen", "unseen")}
    long = [(samples, text) for samples, text in _until(minutes * 60)]
    return {
        **utterances,
        "calls": _calls(),
        "seen +silence": [(np.concatenate([samples, SILENCE]), text) for samples, text in utterances["seen"]],
        "long": long,
    }


def _until(seconds: float) -> Case:
    """The evaluation set's recording from its start to the end of the last utterance before `seconds`, as one file."""
    utterances = json.loads((CALLS.parent / "eval" / "seen.json").read_text())["utterances"]
    inside = [utterance for utterance in utterances if utterance["end"] <= seconds]
    end = round((inside[-1]["end"] + 0.2) * RATE)
    return [(recording("seen")[:end], " ".join(utterance["text"] for utterance in inside))]


def _calls() -> Case:
    found = []
    for stream, text in references().items():
        name, _, channel = stream.rpartition("/")
        samples, rate = soundfile.read(CALLS / f"{name}.flac", dtype="float32", always_2d=True)
        found.append((np.ascontiguousarray(soxr.resample(samples[:, int(channel)], rate, RATE)), text))
    return found


class Ours:
    """The fast engine, whole: features, encoder and decoder of its own."""

    def __init__(self, model: SpeechModel, mode: Mode) -> None:
        self._engine = FastEngine(model, GROUP)
        self._engine.warm_up(mode, 1)
        self._mode = mode
        self.seconds: list[float] = []
        real = self._engine._encode

        def timed(*arguments: Any) -> Any:
            began = time.thread_time()
            result = real(*arguments)
            self.seconds.append(time.thread_time() - began)
            return result

        self._engine._encode = timed  # type: ignore[method-assign]

    def texts(self, signals: Sequence[Samples]) -> list[str]:
        return self._said(play(self._engine, signals, self._mode))

    def steps(self, samples: Samples, text: list[str]) -> Iterator[None]:
        """One step after the other; the text at the end."""
        player = Player(self._engine)
        take = player.start(0, samples, self._mode)
        while not take.ended:
            player.step({take: 1})
            yield
        text += self._said([take])

    def _said(self, takes: Sequence[Take]) -> list[str]:
        pieces = [[self._engine.info.pieces[label] for label in take.tokens.ids] for take in takes]
        return ["".join(row).replace("\u2581", " ").strip() for row in pieces]


class Bench:
    """One model, all its engines."""

    def __init__(self, style: str) -> None:
        name, self.context = MODES[style]
        self.style = style
        self.model = shipped(name)
        nemo = self.model.nemo
        self.nemo_steps = {
            (engine, past): NemoStep(copy.deepcopy(nemo.encoder), self.context, past, engine == "fixed")
            for engine in ("stock", "fixed")
            for past in (CORRECT, CORRECT + SEVEN)
        }
        self.heads = self.model.info.decoders

    def label(self, head: str) -> str:
        return f"{self.style} {head.upper()}"

    def score(self, engine: str, case: str, said: Case, texts: dict[str, list[str]]) -> list[Score]:
        found = []
        for head, heard in texts.items():
            result = jiwer.process_words([text for _, text in said], heard)
            words = result.hits + result.substitutions + result.deletions
            errors = result.deletions, result.insertions, result.substitutions
            found.append(Score(self.label(head), engine, case, words, *errors))
        return found

    def decode(self, encoded: Sequence[torch.Tensor]) -> dict[str, list[str]]:
        """Texts of rows (T, width) by NeMo's own greedy decoders, by head."""
        nemo = self.model.nemo
        length = torch.tensor([len(row) for row in encoded])
        batch = torch.nn.utils.rnn.pad_sequence(list(encoded), batch_first=True).transpose(1, 2)
        found = {}
        for head in self.heads:
            if head == "rnnt":
                heard = nemo.decoding.rnnt_decoder_predictions_tensor(batch, length, return_hypotheses=True)
            else:
                hybrid = hasattr(nemo, "ctc_decoder")
                scores = (nemo.ctc_decoder if hybrid else nemo.decoder)(encoder_output=batch)
                decoding = nemo.ctc_decoding if hybrid else nemo.decoding
                heard = decoding.ctc_decoder_predictions_tensor(scores, length, return_hypotheses=True)
            found[head] = [hypothesis.text for hypothesis in heard]
        return found

    def short(self, case: str, said: Case) -> Iterator[Score]:
        said = sorted(said, key=lambda pair: len(pair[0]))  # rows of a batch end near each other
        signals = [samples for samples, _ in said]
        mels = [offline_mels(self.model.nemo, samples) for samples in signals]
        whole = [offline(self.model.nemo, samples, self.context) for samples in signals]
        yield from self.score("offline", case, said, self.decode(whole))
        for (engine, past), step in self.nemo_steps.items():
            if past != CORRECT and "+" in case:
                continue
            encoded: list[torch.Tensor] = []
            for first in range(0, len(mels), GROUP):
                encoded += step.stream(mels[first : first + GROUP]).encoded
            yield from self.score(engine, _named(case, past), said, self.decode(encoded))
        for head in self.heads:
            texts = Ours(self.model, Mode(self.context[1], head)).texts(signals)
            yield from self.score("ours", case, said, {head: texts})

    def long(self, case: str, said: Case, latency: dict[str, dict[str, float]]) -> Iterator[Score]:
        ((samples, _),) = said
        with TURN:
            whole = [offline(self.model.nemo, samples, self.context)]
        yield from self.score("offline", case, said, self.decode(whole))
        mels = [offline_mels(self.model.nemo, samples)]
        running: dict[Any, Iterator[Any]] = {key: step.steps(mels) for key, step in self.nemo_steps.items()}
        texts: dict[str, list[str]] = {head: [] for head in self.heads}
        engines = {head: Ours(self.model, Mode(self.context[1], head)) for head in self.heads}
        running |= {head: engine.steps(samples, texts[head]) for head, engine in engines.items()}
        runs = {}
        while running:  # in turn, so that a busy moment falls on all
            for key, steps in list(running.items()):
                run = next(steps, None)
                if key in texts:
                    if texts[key]:
                        del running[key]
                elif run is None:
                    del running[key]
                else:
                    runs[key] = run
        for (engine, past), run in runs.items():
            yield from self.score(engine, _named(case, past), said, self.decode(run.encoded))
            latency[f"{engine}{'' if past == CORRECT else f' +{SEVEN}'}"] = _milliseconds(run.seconds)
        yield from self.score("ours", case, said, texts)
        latency["ours"] = _milliseconds(engines[self.heads[0]].seconds)


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "p50": round(1000 * statistics.median(seconds), 2),
        "p95": round(1000 * percentile(seconds, 95), 2),
        "steps": len(seconds),
    }


def _named(case: str, past: int) -> str:
    return case if past == CORRECT else f"{case} +{SEVEN}"


@torch.inference_mode()
def measure(style: str, every: int, minutes: float) -> tuple[list[Score], dict[str, dict[str, float]]]:
    torch.set_num_threads(1)
    logging.getLogger("nemo_logger").setLevel(logging.ERROR)
    bench = Bench(style)
    scores: list[Score] = []
    latency: dict[str, dict[str, float]] = {}
    for case, said in cases(every, minutes).items():
        began = time.monotonic()
        scores += bench.long(case, said, latency) if case == "long" else bench.short(case, said)
        print(f"{style}: {case} done in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return scores, latency


Shown = tuple[str, list[str], list[list[str]]]  # caption, header, rows


def table(scores: list[Score]) -> Shown:
    """A row for each style and case, a column for each engine."""
    rows: dict[tuple[str, str], dict[str, Score]] = {}
    for score in scores:
        rows.setdefault((score.style, score.case), {})[score.engine] = score
    header = ["model, head", "case", "words", *ENGINES]
    lines = []
    for (style, case), found in rows.items():
        cells = [_cell(found[engine]) if engine in found else "" for engine in ENGINES]
        lines.append([style, case, str(next(iter(found.values())).words), *cells])
    return "word error rate, % (deletions, insertions, substitutions)", header, lines


def steps(latency: dict[str, dict[str, dict[str, float]]]) -> Shown:
    rows = [
        [style, engine, *(str(value) for value in values.values())]
        for style, engines in latency.items()
        for engine, values in engines.items()
    ]
    return (
        "encoder step of one stream on one thread, processor time, engines in turn, the two models beside each other",
        ["model", "engine", "p50 ms", "p95 ms", "steps"],
        rows,
    )


def markdown(shown: list[Shown]) -> str:
    parts = []
    for caption, header, rows in shown:
        lines = [header, ["---"] * len(header), *rows]
        parts.append(f"{caption[0].upper()}{caption[1:]}:\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def _cell(score: Score) -> str:
    parts = (100 * n / score.words for n in (score.deletions, score.insertions, score.substitutions))
    return f"{score.wer:.1f} ({' '.join(f'{part:.1f}' for part in parts)})"


def plot(scores: list[Score]) -> str:
    groups: dict[tuple[str, str], dict[str, float]] = {}
    for score in scores:
        groups.setdefault((score.style, score.case), {})[score.engine] = score.wer
    return bars(
        "Word error rate, %",
        [Group(style, case, [values.get(engine) for engine in ENGINES]) for (style, case), values in groups.items()],
        ENGINES,
    )


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
        (options.write / "evidence.svg").write_text(plot(scores))
    wer: dict[str, dict[str, dict[str, float]]] = {}
    for score in scores:
        style, head = score.style.split()
        wer.setdefault(style, {}).setdefault(score.engine, {})[f"{head} {score.case}"] = round(score.wer, 1)
    print(json.dumps({"wer": wer, "latency_ms": latency, "scores": [asdict(score) for score in scores]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
