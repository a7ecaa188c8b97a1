"""The fast engine on a GPU, where there is one: captured graphs give what the CPU gives."""

import pytest
import torch

from tests.engine.models import DEMO_MODELS, Pair
from tests.engine.play import difference, play
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.fast.graphs import Capture
from worker.engine.model import load

TOLERANCE = 1e-3  # another device adds up in another order; TF32 is off by default
SIGNALS = [excerpt(2 * i, n) for i, n in enumerate((200_037, 97_777, 60_005, 1_000, 150_000))]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["demo", "regular"])
def test_replayed_graphs_give_what_the_cpu_gives(name: str, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(name)
    engine = FastEngine(load(str(DEMO_MODELS / f"{name}.nemo"), device="cuda"), 8)
    assert engine._buckets is not None
    for mode in pair.modes:
        for _ in range(2):  # the second time, most passes are replays
            for ours, theirs in zip(
                play(engine, SIGNALS, mode), play(pair.engines["fast"], SIGNALS, mode), strict=True
            ):
                assert difference(ours.frames.cpu(), theirs.frames) <= TOLERANCE
    assert all(isinstance(bucket.run, Capture) for bucket in engine._buckets.made.values())
