"""What is heard: utterances, calls, and one long file."""

import json

import numpy as np
import soundfile
import soxr

from demo.score import CALLS, references
from tests.engine.speech import RATE, evaluation, recording
from worker.engine.interface import Samples

SILENCE = np.zeros(4 * RATE, np.float32)

Case = list[tuple[Samples, str]]  # audio and what is said in it


def cases(every: int, minutes: float) -> dict[str, Case]:
    utterances = {name: evaluation(name)[::every] for name in ("seen", "unseen")}
    return {
        **utterances,
        "calls": _calls(),
        "seen +silence": [(np.concatenate([samples, SILENCE]), text) for samples, text in utterances["seen"]],
        "long": _until(minutes * 60),
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
