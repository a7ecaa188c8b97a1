"""NeMo's own cached step fails the checks that the engine passes, in the cases where it is known to be wrong.

Without these tests a fixed NeMo release would go unnoticed, and the checks of the engine might be too weak to see
the fault they are there for.
"""

import torch

from tests.engine import stock
from tests.engine.models import CHUNKED, REGULAR_4_4, REGULAR_CAUSAL, REGULAR_SKEWED, REGULAR_SYMMETRIC, Recipe, Zoo
from tests.engine.play import difference, offline, offline_mels, play
from tests.engine.speech import RATE, excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode
from worker.engine.model import adopt

RIGHT, WRONG = 1e-4, 1e-2
LONG_CONTEXT = Recipe("long-context", ((70, 13),), layers=4, width=64)


def errors(zoo: Zoo, recipe: Recipe, seconds: tuple[int, ...] = (12,), **how: object) -> list[tuple[float, int]]:
    """For each row, the largest difference over the frames that NeMo emits, and how many it emits too few."""
    model = zoo.pair(recipe).stock
    signals = [excerpt(i, n * RATE + 77) for i, n in enumerate(seconds)]
    mels = [offline_mels(model, samples) for samples in signals]
    found = []
    for samples, got in zip(signals, stock.stream(model.encoder, mels, recipe.contexts[0], **how), strict=True):
        expected = offline(model, samples, recipe.contexts[0])
        shared = min(len(got), len(expected))
        found.append((difference(got[:shared], expected[:shared]), len(expected) - len(got)))
    return found


def test_a_long_chunk_with_nine_past_frames_is_right(zoo: Zoo) -> None:
    ((error, missing),) = errors(zoo, LONG_CONTEXT)
    assert error <= RIGHT
    assert missing == 0


def test_eight_mel_frames_more_with_one_more_dropped_are_right(zoo: Zoo) -> None:
    ((error, missing),) = errors(zoo, LONG_CONTEXT, past=17, dropped=3)
    assert error <= RIGHT
    assert missing == 0


def test_seven_mel_frames_more_are_wrong(zoo: Zoo) -> None:
    ((error, _),) = errors(zoo, LONG_CONTEXT, past=16, dropped=2)
    assert error > WRONG


def test_a_row_of_one_chunk_beside_a_row_of_three_is_wrong(zoo: Zoo) -> None:
    (fast, _), (slow, _) = errors(zoo, CHUNKED, seconds=(12, 4), chunks=[3, 1])
    assert fast <= RIGHT
    assert slow > WRONG


def test_rows_of_equal_chunks_are_right(zoo: Zoo) -> None:
    assert all(error <= RIGHT for error, _ in errors(zoo, CHUNKED, seconds=(6, 6), chunks=[3, 3]))


def test_regular_with_symmetric_convolution_is_wrong_wherever_the_stream_starts_from(zoo: Zoo) -> None:
    for recipe in (REGULAR_SYMMETRIC, REGULAR_SKEWED, REGULAR_4_4):
        for zeros in (True, False):
            ((error, missing),) = errors(zoo, recipe, zeros_before_start=zeros)
            assert error > WRONG
            assert missing > 0


def test_regular_causal_is_wrong_at_the_start_and_loses_the_end(zoo: Zoo) -> None:
    """Its cache is right with rows of equal length; zeros before the start and the trimmed end are not."""
    recipe = Recipe("regular-causal-4x64", ((20, 2),), style="regular", layers=4, width=64)
    ((error, missing),) = errors(zoo, recipe)
    assert error > WRONG
    assert missing == 8
    ((error, missing),) = errors(zoo, recipe, zeros_before_start=False)
    assert error <= RIGHT
    assert missing == 8


def test_a_stock_model_in_the_same_process_is_untouched(zoo: Zoo) -> None:
    for recipe in (CHUNKED, REGULAR_CAUSAL, REGULAR_SYMMETRIC):
        alone = zoo.build(recipe)
        samples = excerpt(0, 5 * RATE)
        mel = offline_mels(alone, samples)
        (before,) = stock.stream(alone.encoder, [mel], recipe.contexts[0])
        pair = zoo.pair(recipe)  # an engine patches a model of the same class
        play(pair.reference, [samples], Mode(recipe.contexts[0][1], "ctc"))
        FastEngine(adopt(alone, "alone"), 1)  # and one takes its weights from this very model
        (after,) = stock.stream(alone.encoder, [mel], recipe.contexts[0])
        assert torch.equal(before, after)
        for mine, patched in zip(alone.encoder.layers, pair.model.encoder.layers, strict=True):
            for module, other in (
                (mine.self_attn, patched.self_attn),
                (mine.conv.depthwise_conv, patched.conv.depthwise_conv),
            ):
                assert module.update_cache.__func__ is type(module).update_cache
                assert other.update_cache.__func__ is not type(other).update_cache
