"""The fast engine in bfloat16: half the memory for K and V, nearly the same frames and words."""

import jiwer
import pytest
import torch

from tests.engine.models import Pair
from tests.engine.play import play
from tests.engine.speech import evaluation
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode

# Of a frame, relative to its length: eight layers of a dozen roundings of 2^-9 each, adding up at random, are 0.02.
TYPICAL, WORST = 0.02, 0.04
WORDS = 0.03
SLOTS = 8


@pytest.fixture(scope="module", params=[False, True], ids=["as-small-as-can-be", "buckets"])
def half(demo: Pair, request: pytest.FixtureRequest) -> FastEngine:
    return FastEngine(demo.model, SLOTS, torch.bfloat16, buckets=request.param)


def words(engine: FastEngine, ids: list[int]) -> str:
    return "".join(engine.info.pieces[label] for label in ids).replace("\u2581", " ").strip()


@pytest.mark.parametrize("mode", [Mode(6, "rnnt"), Mode(1, "rnnt"), Mode(6, "ctc")], ids=str)
def test_frames_and_words_are_nearly_those_of_float32(demo: Pair, half: FastEngine, mode: Mode) -> None:
    utterances = evaluation("seen")[::20]
    signals = [samples for samples, _ in utterances]
    whole = play(demo.engines["fast"], signals, mode, chunks=2)
    rough = play(half, signals, mode, chunks=2)
    for a, b in zip(whole, rough, strict=True):
        assert b.frames.dtype == torch.float32
        assert a.frames.shape == b.frames.shape
        error = (a.frames - b.frames).norm(dim=-1) / a.frames.norm(dim=-1)
        assert 0 < float(error.median()) <= TYPICAL
        assert float(error.max()) <= WORST
    said, roughly_said = ([words(half, take.tokens.ids) for take in takes] for takes in (whole, rough))
    assert jiwer.wer(said, roughly_said) <= WORDS
    spoken = [text for _, text in utterances]
    assert jiwer.wer(spoken, roughly_said) <= jiwer.wer(spoken, said) + WORDS


def test_kept_frames_take_half_the_memory(demo: Pair, half: FastEngine) -> None:
    full = demo.engines["fast"]
    (a,), (b,) = (play(engine, [evaluation("seen")[0][0]], Mode(6, "rnnt")) for engine in (full, half))
    saved, small = full.save(a.slot).tensors, half.save(b.slot).tensors
    assert saved.keys() == small.keys()
    for name in ("kv", "conv", *(name for name in saved if name.startswith("subsampling"))):
        assert small[name].dtype == torch.bfloat16
        assert small[name].nbytes * 2 == saved[name].nbytes
    assert half.bytes_per_slot() < 0.51 * full.bytes_per_slot()


def test_a_saved_slot_of_another_type_is_refused(demo: Pair, half: FastEngine) -> None:
    demo.engines["fast"].open(0, Mode(6, "rnnt"))
    with pytest.raises(ValueError, match="does not fit"):
        half.load(0, demo.engines["fast"].save(0))
