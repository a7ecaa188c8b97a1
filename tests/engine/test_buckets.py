"""Buckets are few: each takes memory for its buffers and graph, and its first use is slow."""

import pytest

from tests.engine.models import Pair
from worker.engine.fast.engine import FastEngine

ROWS = 64


@pytest.mark.parametrize(("name", "published"), [("demo", 112), ("regular", 77)])
def test_all_batches_and_all_frames_meet_few_buckets(name: str, published: int, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(name)
    engine = FastEngine(pair.model, ROWS, buckets=True)
    assert engine._buckets is not None
    shapes = set()
    for mode in pair.modes:
        for ends in (False, True):
            limit = engine._pass_frames(mode, ends)
            for frames in range(1, limit + 1):
                for batch in range(1, ROWS + 1):
                    shape = engine._buckets.shape(mode.look_ahead, batch, frames, ends, limit)
                    assert batch <= shape.batch <= min(2 * batch, ROWS)
                    assert frames <= shape.frames <= limit
                    shapes.add(shape)
    assert len(shapes) == published
