"""Recorded passes do what Python does: the same frames and the same state, bit for bit, for any number of rows."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.models import CHUNKED, CHUNKED_BATCH_NORM, CHUNKED_STRIDING, REGULAR_SKEWED, Recipe, Zoo
from tests.engine.play import Player, difference, offline
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.fast.recorder import Recorder
from worker.engine.interface import Mode, Row
from worker.engine.model import SpeechModel

SLOTS = 9
RECIPES = [CHUNKED, CHUNKED_BATCH_NORM, CHUNKED_STRIDING, REGULAR_SKEWED]

# the streams of a step, as a number of rows from a first one on, and the chunks of each
steps = st.lists(st.tuples(st.integers(1, SLOTS), st.integers(0, SLOTS - 1), st.integers(1, 2)), min_size=3, max_size=9)


def recordings(engine: FastEngine) -> int:
    recorder = engine._recorder
    assert isinstance(recorder, Recorder)
    return sum(recorded is not None for recorded in recorder.made.values())


class Twin:
    """One engine of two that are given the same."""

    def __init__(self, engine: FastEngine, mode: Mode) -> None:
        self.engine = engine
        self._mode = mode
        self._chunks = [0] * SLOTS
        for slot in range(SLOTS):
            engine.open(slot, mode)
        self.step(SLOTS, 0, 2)

    def step(self, rows: int, first: int, chunks: int) -> list[tuple[list[int], list[int]]]:
        geometry = self.engine.info.geometry
        batch = []
        for slot in sorted((first + number) % SLOTS for number in range(rows)):
            done = self._chunks[slot]
            begin = geometry.chunk_end(self._mode.look_ahead, done - 1) if done else 0
            self._chunks[slot] += chunks
            end = geometry.chunk_end(self._mode.look_ahead, self._chunks[slot] - 1)
            batch.append(Row(slot, excerpt(slot, 250_000)[begin:end]))
        return [(tokens.ids, tokens.frames) for tokens in self.engine.step(batch)]

    def state(self) -> dict[str, torch.Tensor]:
        return {name: tensor for slot in range(SLOTS) for name, tensor in self._saved(slot).items()}

    def _saved(self, slot: int) -> dict[str, torch.Tensor]:
        return {f"{slot} {name}": tensor for name, tensor in self.engine.save(slot).tensors.items()}


@pytest.mark.parametrize(
    ("recipe", "look_ahead"),
    [(CHUNKED, 1), (CHUNKED, 0), (CHUNKED_BATCH_NORM, 2), (CHUNKED_STRIDING, 1), (REGULAR_SKEWED, 1)],
    ids=str,
)
@settings(max_examples=3, deadline=None)
@given(plan=steps, after=st.sampled_from([0, 1]))
def test_recorded_passes_leave_what_others_leave(
    zoo: Zoo, recipe: Recipe, look_ahead: int, plan: list[tuple[int, int, int]], after: int
) -> None:
    """Passes of all three kinds: products turned round, all taps at once, one tap after the other."""
    model = zoo.pair(recipe).model
    mode = Mode(look_ahead, model.info.decoders[0])
    few = 3 * (look_ahead + 1) * int(model.encoder.d_model)  # more rows than three take one tap after the other
    with patch("worker.engine.fast.layer.AT_ONCE", few), patch("worker.engine.fast.recorder.AT_ONCE", few):
        equal(model, mode, [*plan, (2, 0, 1), (1, 1, 1), (SLOTS, 0, 1), *plan, (SLOTS, 0, 1), (1, 1, 1)], after)


def equal(model: SpeechModel, mode: Mode, plan: list[tuple[int, int, int]], after: int) -> None:
    recorded, played = (Twin(FastEngine(model, SLOTS, record_after=n), mode) for n in (after, 10**9))
    for step in plan:
        assert recorded.step(*step) == played.step(*step)
        mine, theirs = recorded.state(), played.state()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert recordings(recorded.engine)
    assert not recordings(played.engine)


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recorded_passes_equal_offline(zoo: Zoo, recipe: Recipe) -> None:
    """One row, then all with it."""
    pair = zoo.pair(recipe)
    engine = FastEngine(pair.model, 5, record_after=0)
    mode = Mode(pair.model.info.look_aheads[0], "ctc")
    player = Player(engine)
    takes = [player.start(slot, excerpt(slot, 120_000 + 7_000 * slot), mode) for slot in range(5)]
    player.step({takes[0]: 1})
    for _ in range(3):
        player.step({takes[0]: 1})
    player.finish(takes)
    assert recordings(engine)
    for take in takes:
        assert difference(take.frames, offline(pair.stock, take.samples, pair.context(mode.look_ahead))) <= 1e-4


def test_what_cannot_be_recorded_goes_on_without(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def trace(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], check_trace: bool) -> None:
        module(*inputs)
        raise RuntimeError("no tracer here")

    monkeypatch.setattr("torch.jit.trace", trace)
    pair = zoo.pair(CHUNKED)
    engine = FastEngine(pair.model, 2, record_after=0)
    player = Player(engine)
    take = player.start(0, excerpt(0, 60_000), Mode(1, "ctc"))
    player.finish([take])
    assert difference(take.frames, offline(pair.stock, take.samples, pair.context(1))) <= 1e-4
    assert caplog.text.count("no tracer here") == 1


def test_only_passes_of_one_chunk_are_recorded_once_they_came_often(zoo: Zoo) -> None:
    """So that there are at most three recordings a look-ahead, whatever comes."""
    pair = zoo.pair(CHUNKED)
    engine = FastEngine(pair.model, 40, record_after=2)
    silence = np.zeros(200_000, np.float32)

    def play(mode: Mode, rows: int, chunks: list[int]) -> int:
        """How many recordings these steps add."""
        before, done = recordings(engine), 0
        for slot in range(rows):
            engine.open(slot, mode)
        for count in chunks:
            begin = engine.info.geometry.chunk_end(mode.look_ahead, done - 1) if done else 0
            done += count
            end = engine.info.geometry.chunk_end(mode.look_ahead, done - 1)
            engine.step([Row(slot, silence[begin:end]) for slot in range(rows)])
        return recordings(engine) - before

    mode = Mode(0, "ctc")
    assert play(mode, 1, [1, 2, 2, 2, 2]) == 0
    assert play(mode, 1, [1, 1, 1]) == 0
    assert play(mode, 1, [1, 1, 1]) == 1
    assert play(mode, 2, [1] * 4) == 1  # products turned round
    assert play(mode, 3, [1] * 4) == 0
    assert play(mode, 40, [1] * 4) == 0
    assert play(Mode(1, "ctc"), 1, [1] * 4) == 1
