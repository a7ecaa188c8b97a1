"""Recorded passes do what Python does: the same frames and the same state, bit for bit, for any number of rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from worker.engine.interface import Mode, Row
from worker.engine.model import SpeechModel

Recording = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

SLOTS = 9
RECIPES = [CHUNKED, CHUNKED_BATCH_NORM, CHUNKED_STRIDING, REGULAR_SKEWED]

# the streams of a step, as a number of rows from a first one on, and the chunks of each
steps = st.lists(st.tuples(st.integers(1, SLOTS), st.integers(0, SLOTS - 1), st.integers(1, 2)), min_size=3, max_size=9)


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
@given(plan=steps)
def test_recorded_passes_leave_what_others_leave(
    zoo: Zoo, recipe: Recipe, look_ahead: int, plan: list[tuple[int, int, int]]
) -> None:
    """Passes of both kinds: all taps at once, one tap after the other."""
    model = zoo.pair(recipe).model
    mode = Mode(look_ahead, model.info.decoders[0])
    few = 3 * (look_ahead + 1) * int(model.encoder.d_model)  # more rows than three take one tap after the other
    with patch("worker.engine.fast.layer.AT_ONCE", few), patch("worker.engine.fast.recorder.AT_ONCE", few):
        equal(model, mode, [*plan, (2, 0, 1), (1, 1, 1), (SLOTS, 0, 1), *plan, (SLOTS, 0, 1), (1, 1, 1)])


def equal(model: SpeechModel, mode: Mode, plan: list[tuple[int, int, int]]) -> None:
    engines = [FastEngine(model, SLOTS) for _ in range(2)]
    engines[0].warm_up(mode, SLOTS)
    assert len(engines[0]._recorder.made) >= 2
    assert not engines[1]._recorder.made
    recorded, played = (Twin(engine, mode) for engine in engines)
    for step in plan:
        assert recorded.step(*step) == played.step(*step)
        mine, theirs = recorded.state(), played.state()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


@contextmanager
def counted(engine: FastEngine) -> Iterator[list[int]]:
    """Numbers of rows of passes that were run by a recording."""
    rows: list[int] = []

    def watched(recording: Recording) -> Recording:
        def run(mels: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
            rows.append(len(mels))
            return recording(mels, numbers)

        return run

    made = engine._recorder.made
    with patch.dict(made, {kind: watched(recording) for kind, recording in made.items()}):
        yield rows


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_recorded_passes_equal_offline(zoo: Zoo, recipe: Recipe) -> None:
    """One row, then all with it."""
    pair = zoo.pair(recipe)
    engine = FastEngine(pair.model, 5)
    mode = Mode(pair.model.info.look_aheads[0], "ctc")
    engine.warm_up(mode, 5)
    player = Player(engine)
    takes = [player.start(slot, excerpt(slot, 120_000 + 7_000 * slot), mode) for slot in range(5)]
    with counted(engine) as rows:
        for _ in range(4):
            player.step({takes[0]: 1})
        player.finish(takes)
    assert {1, 4, 5} & set(rows) >= {1, 5}
    for take in takes:
        assert difference(take.frames, offline(pair.stock, take.samples, pair.context(mode.look_ahead))) <= 1e-4


def test_what_cannot_be_recorded_goes_on_without(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def trace(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], check_trace: bool) -> None:
        module(*inputs)
        raise TypeError("no tracer here")

    monkeypatch.setattr("torch.jit.trace", trace)
    pair = zoo.pair(CHUNKED)
    engine = FastEngine(pair.model, 2)
    engine.warm_up(Mode(1, "ctc"), 2)
    player = Player(engine)
    take = player.start(0, excerpt(0, 60_000), Mode(1, "ctc"))
    player.finish([take])
    assert difference(take.frames, offline(pair.stock, take.samples, pair.context(1))) <= 1e-4
    assert caplog.text.count("no tracer here") == 1


def test_only_passes_of_one_chunk_are_recorded_at_the_start(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there are at most two recordings a look-ahead, made before the first stream."""
    pair = zoo.pair(CHUNKED)
    # more rows than four take one tap after the other
    monkeypatch.setattr("worker.engine.fast.recorder.AT_ONCE", 4 * int(pair.model.encoder.d_model))
    engine = FastEngine(pair.model, 40)
    silence = np.zeros(200_000, np.float32)

    def play(mode: Mode, rows: int, chunks: list[int]) -> int:
        """How many of these steps are run by a recording."""
        done = 0
        for slot in range(rows):
            engine.open(slot, mode)
        with counted(engine) as run:
            for count in chunks:
                begin = engine.info.geometry.chunk_end(mode.look_ahead, done - 1) if done else 0
                done += count
                end = engine.info.geometry.chunk_end(mode.look_ahead, done - 1)
                engine.step([Row(slot, silence[begin:end]) for slot in range(rows)])
        return len(run)

    mode = Mode(0, "ctc")
    assert play(mode, 1, [1, 1, 1]) == 0
    engine.warm_up(mode, 4)
    assert len(engine._recorder.made) == 1
    assert play(mode, 1, [1, 2, 2]) == 0
    for rows in (1, 2, 4):
        assert play(mode, rows, [1, 1, 1, 2]) == 2
    assert play(mode, 5, [1, 1, 1]) == 0
    assert play(Mode(1, "ctc"), 1, [1, 1, 1]) == 0
    engine.warm_up(mode, 5)
    assert len(engine._recorder.made) == 2
    for rows in (1, 5, 40):
        assert play(mode, rows, [1, 1, 1]) == 2
