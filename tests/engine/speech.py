"""Real speech for the engine's tests: the evaluation sets and calls that ship with the project."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

DEMO = Path(__file__).parents[2] / "demo"
RATE = 16000
MARGIN = 0.2  # seconds around an utterance, as in the published word error rates

Samples = NDArray[np.float32]


@cache
def recording(name: str) -> Samples:
    """A whole evaluation set as one signal, about sixteen minutes for `seen`."""
    samples, rate = soundfile.read(DEMO / "eval" / f"{name}.ogg", dtype="float32")
    assert rate == RATE
    return samples


@cache
def evaluation(name: str) -> list[tuple[Samples, str]]:
    """Utterances of an evaluation set and what is said in them."""
    utterances = json.loads((DEMO / "eval" / f"{name}.json").read_text())["utterances"]
    whole = recording(name)
    return [
        (whole[round((u["start"] - MARGIN) * RATE) : round((u["end"] + MARGIN) * RATE)], u["text"]) for u in utterances
    ]


@cache
def call_channel(name: str, channel: int) -> Samples:
    """One side of a 16 kHz call."""
    samples, rate = soundfile.read(DEMO / "calls" / f"{name}.flac", dtype="float32", always_2d=True)
    assert rate == RATE
    return np.ascontiguousarray(samples[:, channel])


def excerpt(seed: int, length: int) -> Samples:
    """`length` samples that differ by seed: speech for even seeds, for odd ones noise that changes in loudness."""
    if seed % 2 == 0:
        whole = recording("seen")
        start = seed * 104_729 % (len(whole) - length)
        return whole[start : start + length]
    random = np.random.default_rng(seed)
    loudness = np.repeat(random.uniform(0.0, 0.3, length // 4000 + 1), 4000)[:length]
    return (random.standard_normal(length) * loudness).astype(np.float32)
