"""Buckets are few: each takes memory for its buffers and graph, and its first use is slow."""

from collections.abc import Sequence

import pytest

from tests.engine.models import Pair
from tests.engine.play import difference, offline, play
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.fast.step import PassShape
from worker.engine.interface import Mode

ROWS = 64


@pytest.mark.parametrize(("name", "published"), [("demo", 112), ("regular", 77)])
def test_all_batches_and_all_frames_meet_few_buckets(name: str, published: int, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(name)
    engine = FastEngine(pair.model, ROWS, buckets=True)
    shapes = shapes_of(engine, pair.modes)
    assert len(shapes) == published
    # whatever is in fact met is among them: rows that catch up, in several passes, to a segment's end or not
    for mode in pair.modes:
        signals = [excerpt(2 * i, n) for i, n in enumerate((150_000, 110_000, 90_000, 30_000, 1_000))]
        for chunks in (1, 13, 40):
            play(engine, signals, mode, chunks)
    assert engine._buckets is not None
    assert len(engine._buckets.made) > 10
    assert engine._buckets.made.keys() <= shapes


def shapes_of(engine: FastEngine, modes: Sequence[Mode]) -> set[PassShape]:
    """What all batches with all numbers of frames are rounded up to."""
    assert engine._buckets is not None
    shapes = set()
    for mode in modes:
        for ends in (False, True):
            limit = engine._pass_frames(mode, ends)
            for frames in range(1, limit + 1):
                for batch in range(1, engine.slots + 1):
                    shape = engine._buckets.shape(mode.look_ahead, batch, frames, ends, limit)
                    assert batch <= shape.batch <= min(2 * batch, engine.slots)
                    assert frames <= shape.frames <= limit
                    shapes.add(shape)
    return shapes


@pytest.mark.parametrize("name", ["demo", "regular"])
def test_all_buckets_of_a_mode_are_made_before_the_first_stream(name: str, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(name)
    engine, mode = FastEngine(pair.model, 5, max_frames=14, buckets=True), pair.modes[-1]
    assert engine._buckets is not None
    engine.warm_up(mode, batch=3)
    made = set(engine._buckets.made)
    assert made == {shape for shape in shapes_of(engine, [mode]) if shape.batch <= 4}
    signals = [excerpt(2 * i, n) for i, n in enumerate((60_000, 50_000, 1_000))]
    for chunks in (1, 9):
        for take in play(engine, signals, mode, chunks):
            expected = offline(pair.stock, take.samples, pair.context(mode.look_ahead))
            assert difference(take.frames, expected) <= 1e-4
    assert engine._buckets.made.keys() == made
