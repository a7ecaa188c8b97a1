"""One model, its audio and all engines: their errors, and what a step takes."""

import copy
import logging
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import jiwer
import torch

from bench.evidence.cases import Case, cases
from bench.models import shipped
from bench.nemo_step import CORRECT, NemoStep
from demo.score import percentile
from tests.engine.play import Player, Take, offline, offline_mels, play
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode, Samples
from worker.engine.model import SpeechModel

MODES = {"chunked_limited": ("demo", (70, 1)), "regular": ("regular", (20, 2))}
ENGINES = ("offline", "stock", "fixed", "ours")
SEVEN = 7
GROUP = 32  # utterances in one batch

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
