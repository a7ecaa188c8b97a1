"""Rings are as long as they must be: passes as full as can be, with the widest context.

A ring that is one row short loses the oldest frame that such a pass still needs.
"""

import pytest

from tests.engine.models import CHUNKED, REGULAR_CAUSAL, REGULAR_SYMMETRIC, Recipe, Zoo
from tests.engine.play import Player, difference, offline
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode

FULL_PASSES = 3


@pytest.mark.parametrize("buckets", [False, True], ids=["as-small-as-can-be", "buckets"])
@pytest.mark.parametrize(
    ("recipe", "max_frames"), [(CHUNKED, 28), (REGULAR_CAUSAL, 27), (REGULAR_SYMMETRIC, 27)], ids=str
)
def test_passes_filled_to_their_last_frame_equal_offline(
    zoo: Zoo, recipe: Recipe, max_frames: int, buckets: bool
) -> None:
    """Full passes, beside a row that gets only their padding; then a full pass that ends the segment.

    Where rows wait for their right context, a pass in which none ends takes more frames.
    """
    pair = zoo.pair(recipe)
    engine = FastEngine(pair.model, 2, max_frames=max_frames, buckets=buckets)
    left, right = recipe.contexts[0]
    mode, chunk, waiting = Mode(right, "ctc"), right + 1, engine.info.geometry.recompute[right]
    full = max_frames + waiting
    assert left == max(left for left, _ in recipe.contexts)
    assert full % chunk == max_frames % chunk == (FULL_PASSES * full - waiting) % chunk == 0
    total = FULL_PASSES * full + max_frames  # frames of the segment: the last has mel frame 8 (total - 1) as its last
    player = Player(engine)
    long = player.start(0, excerpt(4, 160 * (8 * (total - 1) + 1)), mode)
    slow = player.start(1, excerpt(6, 90_000), mode)
    player.step({slow: 5})
    player.step({long: (FULL_PASSES * full - waiting) // chunk, slow: 1})
    player.step({long: max_frames // chunk, slow: 1})
    assert long.ended
    player.finish([slow])
    for take in (long, slow):
        expected = offline(pair.stock, take.samples, (left, right))
        assert difference(take.frames, expected) <= 1e-4
    assert len(long.frames) == total
