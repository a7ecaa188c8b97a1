"""The fast engine on a GPU, where there is one: captured graphs give what the CPU gives, and the host does not wait."""

import pytest
import torch

from tests.engine.models import DEMO_MODELS, Pair
from tests.engine.play import difference, play
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.fast.graphs import Capture
from worker.engine.model import load

TOLERANCE = 1e-4
LENGTHS = (200_037, 97_777, 60_005, 1_000, 150_000)


def test_an_engine_computes_in_full_float32(demo: Pair) -> None:
    """By default PyTorch lets convolutions and recurrent networks on CUDA round their inputs to ten bits."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    FastEngine(demo.model, 1)
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["demo", "regular"])
def test_replayed_graphs_give_what_the_cpu_gives(name: str, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(name)
    engine = FastEngine(load(str(DEMO_MODELS / f"{name}.nemo"), device="cuda"), 8)
    assert engine._buckets is not None
    signals = [excerpt(2 * i, n) for i, n in enumerate(LENGTHS)]
    for mode in pair.modes:
        engine.warm_up(mode, len(signals))
        made = set(engine._buckets.made)
        for ours, theirs in zip(play(engine, signals, mode), play(pair.engines["fast"], signals, mode), strict=True):
            assert difference(ours.frames.cpu(), theirs.frames) <= TOLERANCE
        assert engine._buckets.made.keys() == made
    assert all(isinstance(bucket.run, Capture) for bucket in engine._buckets.made.values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_host_does_not_wait_for_a_pass(demo: Pair) -> None:
    engine = FastEngine(load(str(DEMO_MODELS / "demo.nemo"), device="cuda"), 2)
    engine.warm_up(demo.modes[0], 2)
    assert engine._buckets is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        for bucket in engine._buckets.made.values():
            bucket.fill(torch.zeros_like(bucket.mels), torch.zeros_like(bucket.numbers, device="cpu"))
            bucket.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
