"""The evidence's two ways through NeMo's step: where stock is right, where it is wrong, and what the fix changes."""

import copy

import pytest
import torch
from torch import Tensor

from bench.nemo_step import CORRECT, NemoStep
from tests.engine.models import REGULAR_SYMMETRIC, Recipe, Zoo
from tests.engine.play import offline, offline_mels
from tests.engine.speech import RATE, excerpt

RIGHT, WRONG = 1e-4, 1e-2
CHUNKED = Recipe("evidence", ((70, 1),), layers=4, width=64)
SECONDS = (9.0, 6.1, 6.0)


@torch.inference_mode()
def streamed(zoo: Zoo, recipe: Recipe, past: int, fixed: bool) -> list[tuple[Tensor, Tensor]]:
    """Streamed and offline frames of each row."""
    model = zoo.pair(recipe).stock
    context = recipe.contexts[0][0], recipe.contexts[0][1]
    signals = [excerpt(2 * i, round(seconds * RATE)) for i, seconds in enumerate(SECONDS)]
    mels = [offline_mels(model, samples) for samples in signals]
    run = NemoStep(copy.deepcopy(model.encoder), context, past, fixed).stream(mels)
    return list(zip(run.encoded, (offline(model, samples, context) for samples in signals), strict=True))


def error(got: Tensor, expected: Tensor) -> float:
    """Largest difference of the frames that both have."""
    shared = min(len(got), len(expected))
    return float((got[:shared] - expected[:shared]).abs().max())


@pytest.mark.parametrize("fixed", [False, True])
def test_chunked_with_nine_frames_is_right_for_rows_of_any_length(zoo: Zoo, fixed: bool) -> None:
    for got, expected in streamed(zoo, CHUNKED, CORRECT, fixed):
        assert error(got, expected) <= RIGHT
        assert len(expected) - len(got) in (0, 1)  # NeMo drops a last window of under eight mel frames


def test_with_seven_frames_more_both_are_off_the_grid_and_stock_keeps_what_it_does_not_emit(zoo: Zoo) -> None:
    stock, fixed = (streamed(zoo, CHUNKED, CORRECT + 7, fixed) for fixed in (False, True))
    for (wrong, expected), (better, _) in zip(stock, fixed, strict=True):
        assert error(wrong, expected) > WRONG
        assert error(better, expected) > WRONG
        assert torch.equal(wrong[:2], better[:2])  # the first chunk has no cache yet
        assert error(wrong, better) > WRONG


def test_in_regular_the_fix_is_right_and_the_end_is_lost_without_and_with_it(zoo: Zoo) -> None:
    stock, fixed = (streamed(zoo, REGULAR_SYMMETRIC, CORRECT, fixed) for fixed in (False, True))
    for (wrong, expected), (right, _) in zip(stock, fixed, strict=True):
        assert error(wrong, expected) > WRONG
        assert error(right, expected) <= RIGHT
        assert len(wrong) == len(right) < len(expected) - 10
