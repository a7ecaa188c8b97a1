"""Streamed tokens, their frames and confidences are those of greedy decoding over the whole file."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.engine.greedy import compare, judge, nemo_hypothesis, steps
from tests.engine.models import CHUNKED, REGULAR_SYMMETRIC, Pair, Recipe, Zoo
from tests.engine.play import Samples, offline, play, poison
from tests.engine.speech import RATE, call_channel, evaluation, excerpt
from worker.engine.arenas import Arenas
from worker.engine.batched import _decoders
from worker.engine.interface import Mode, Tokens

RNNT = replace(CHUNKED, name="rnnt", head="rnnt", predictor_layers=2)
HYBRID = replace(CHUNKED, name="hybrid", head="hybrid")
REGULAR_RNNT = replace(REGULAR_SYMMETRIC, name="regular-rnnt", head="rnnt")


def speech() -> list[Samples]:
    """Both sides of a call, and evaluation utterances of many voices."""
    sides = [call_channel("call-00", channel)[: 20 * RATE] for channel in (0, 1)]
    return sides + [samples for samples, _ in evaluation("seen")[::29]] + [s for s, _ in evaluation("unseen")[::29]]


@pytest.mark.parametrize(
    ("name", "look_ahead", "decoder"),
    [("demo", r, d) for r, d in ((13, "rnnt"), (6, "rnnt"), (6, "ctc"), (1, "rnnt"), (0, "rnnt"), (0, "ctc"))]
    + [("regular", 2, "ctc")],
)
def test_tokens_of_real_speech_are_those_of_nemo_offline(
    name: str, kind: str, look_ahead: int, decoder: str, request: pytest.FixtureRequest
) -> None:
    pair: Pair = request.getfixturevalue(name)
    compared, total = 0.0, 0
    for take in play(pair.engines[kind], speech(), Mode(look_ahead, decoder), chunks=2):
        encoded = offline(pair.stock, take.samples, pair.context(look_ahead))
        expected = steps(pair.stock, encoded, decoder)
        judge(pair.stock, encoded, take.tokens, decoder)
        share = compare(take.tokens, expected)
        compared += share * len(encoded)
        total += len(encoded)
        if share == 1.0:  # and the loop by hand is right: NeMo's own decoding says the same
            hypothesis = nemo_hypothesis(pair.stock, encoded, decoder)
            assert pair.stock.tokenizer.ids_to_text(take.tokens.ids) == hypothesis.text
            if decoder == "rnnt":
                assert take.tokens.ids == [int(label) for label in hypothesis.y_sequence]
                assert take.tokens.frames == [int(frame) for frame in hypothesis.timestamp]
    assert compared / total > 0.9


@pytest.mark.parametrize(
    ("recipe", "decoder"),
    [(RNNT, "rnnt"), (HYBRID, "rnnt"), (HYBRID, "ctc"), (CHUNKED, "ctc"), (REGULAR_RNNT, "rnnt")],
    ids=lambda value: str(value),
)
def test_tokens_of_random_weights_are_those_of_nemo_offline(zoo: Zoo, kind: str, recipe: Recipe, decoder: str) -> None:
    """Random weights put out symbols without end: the bound on symbols a frame is met in every frame."""
    pair = zoo.pair(recipe)
    for mode in pair.modes:
        for take in play(
            pair.engines[kind], [excerpt(i, 30_000 + 7 * i) for i in range(8)], Mode(mode.look_ahead, decoder)
        ):
            encoded = offline(pair.stock, take.samples, pair.context(mode.look_ahead))
            judge(pair.stock, encoded, take.tokens, decoder)


@pytest.mark.parametrize("decoder", ["rnnt", "ctc"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(turns=st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), max_size=20), data=st.data())
def test_a_decoder_does_not_see_how_its_frames_are_cut(
    demo: Pair, decoder: str, turns: list[list[int]], data: st.DataObject
) -> None:
    """Rows that join, pause (or get no frame) and leave, in any order of slots."""
    encoded = [offline(demo.stock, excerpt(2 * i, 40_000), (70, 6)) for i in range(4)]
    step, arenas = _decoders(demo.model)[decoder], Arenas(6, torch.device("cpu"))
    step.add_state(arenas)
    slots = data.draw(st.permutations(range(6)))[:4]
    for slot in slots:
        poison(arenas, slot)
    arenas.reset(torch.tensor(slots))
    done = [0] * 4
    tokens = [Tokens() for _ in range(4)]
    for turn in [*turns, [1_000] * 4]:
        order = data.draw(st.permutations(range(4)))
        rows = [b for b in order if turn[b] or data.draw(st.booleans())] or [0]
        pieces = [encoded[b][done[b] : done[b] + turn[b]] for b in rows]
        batch = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=float("inf"))
        batch[batch.isinf()] = 7.0  # padding is whatever it is
        length = torch.tensor([len(piece) for piece in pieces])
        with torch.inference_mode():
            results = step(batch, length, torch.tensor([slots[b] for b in rows]), arenas)
        for b, piece, result in zip(rows, pieces, results, strict=True):
            tokens[b].ids += result.ids
            tokens[b].frames += [done[b] + frame for frame in result.frames]
            tokens[b].confidences += result.confidences
            done[b] += len(piece)
    for b in range(4):
        judge(demo.stock, encoded[b], tokens[b], decoder)


@pytest.mark.parametrize("mode", [Mode(6, "rnnt"), Mode(1, "rnnt"), Mode(6, "ctc")], ids=str)
def test_mates_never_change_a_streams_tokens(demo: Pair, kind: str, mode: Mode) -> None:
    signals = [samples for samples, _ in evaluation("seen")[3::40]]
    together = play(demo.engines[kind], signals, mode, chunks=2)
    for take, samples in zip(together, signals, strict=True):
        (alone,) = play(demo.engines[kind], [samples], mode)
        assert alone.tokens.ids == take.tokens.ids
        assert alone.tokens.frames == take.tokens.frames
        assert np.allclose(alone.tokens.confidences, take.tokens.confidences, atol=1e-4)
