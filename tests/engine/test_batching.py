"""Batch-mates: sixteen ready streams are one encoder call and one decoder call; none touches another."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.engine.models import CHUNKED, REGULAR_SYMMETRIC, SLOTS, Pair, Recipe, Zoo
from tests.engine.play import Player, difference, offline
from tests.engine.speech import excerpt
from worker.engine import native
from worker.engine.interface import Mode

# once a layer
ATTENTION = {
    "fast": (torch.ops.trunkline, "attend") if native.loaded() else (F, "scaled_dot_product_attention"),
    "buckets": (F, "scaled_dot_product_attention"),
}


@contextmanager
def counted(owner: Any, name: str) -> Iterator[list[int]]:
    """The batch sizes with which a function is called."""
    real = getattr(owner, name)
    replaced = name in vars(owner)
    sizes: list[int] = []

    def function(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(args[0] if args else next(iter(kwargs.values()))))
        return real(*args, **kwargs)

    setattr(owner, name, function)
    try:
        yield sizes
    finally:
        if replaced:
            setattr(owner, name, real)
        else:
            delattr(owner, name)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("demo", Mode(6, "rnnt")), ("demo", Mode(0, "rnnt")), ("demo", Mode(1, "ctc")), ("regular", Mode(2, "ctc"))],
    ids=str,
)
def test_sixteen_ready_streams_are_one_call_each(
    name: str, kind: str, mode: Mode, request: pytest.FixtureRequest
) -> None:
    pair: Pair = request.getfixturevalue(name)
    nemo, engine = pair.model.nemo, pair.engines[kind]
    head = nemo.ctc_decoder if hasattr(nemo, "ctc_decoder") else nemo.decoder
    decoder = engine._decoders["rnnt"].computer if mode.decoder == "rnnt" else head
    # the fast encoder is no NeMo module: what it calls is counted once a layer
    encoder = (nemo.encoder, "forward_internal") if kind == "reference" else ATTENTION[kind]
    player = Player(engine)
    geometry = engine.info.geometry
    long, short = geometry.chunk_end(mode.look_ahead, 20), geometry.chunk_end(mode.look_ahead, 0) + 8_000
    takes = [player.start(slot, excerpt(slot, long if slot < 14 else short), mode) for slot in range(SLOTS)]
    # some new, some with a past; the first chunk of a `regular` stream is long, so there all have taken it
    player.step(dict.fromkeys(takes[4:8] if name == "demo" else takes, 1))
    player.step({take: 1 + take.slot % 3 for take in takes[6:12]})
    ours = dict(engine.calls)
    with (
        counted(*encoder) as encoded,
        counted(decoder, "torch_impl" if mode.decoder == "rnnt" else "forward") as decoded,
    ):
        player.step({take: 1 + take.slot % 3 if take.slot < 14 else 20 for take in takes})
    assert encoded == [SLOTS] * (1 if kind == "reference" else len(nemo.encoder.layers))
    assert decoded == [SLOTS]
    assert {calls: count - ours[calls] for calls, count in engine.calls.items()} == {"encoder": 1, "decoder": 1}
    assert sum(take.ended for take in takes) == 2
    assert len({len(take.encoded[-1]) for take in takes}) > 2
    player.finish(takes)


@pytest.mark.parametrize(
    ("recipe", "chunks"), [(CHUNKED, (4, 3)), (REGULAR_SYMMETRIC, (8, 5))], ids=["chunked", "regular"]
)
def test_a_stream_of_nan_spoils_only_itself(zoo: Zoo, kind: str, recipe: Recipe, chunks: tuple[int, int]) -> None:
    pair = zoo.pair(recipe)
    player, mode = Player(pair.engines[kind]), pair.modes[0]
    sick = player.start(0, np.full(100_000, np.nan, dtype=np.float32), mode)
    well = player.start(1, excerpt(2, 100_000), mode)
    player.step({sick: chunks[0]})
    player.step({well: chunks[1]})  # where padding is to static shapes, the same one, not filled to its end
    player.step({well: 1, sick: 2})
    player.finish([well, sick])
    assert torch.isnan(sick.frames).all()
    expected = offline(pair.stock, well.samples, pair.context(mode.look_ahead))
    assert difference(well.frames, expected) <= 1e-4


def test_the_long_first_chunk_of_a_regular_stream_is_one_encoder_call(regular: Pair, kind: str) -> None:
    """51 frames: 3 to emit and 48 that wait for their right context."""
    engine, mode = regular.engines[kind], Mode(2, "ctc")
    player = Player(engine)
    fresh = [player.start(slot, excerpt(slot, 100_000), mode) for slot in range(3)]
    before = engine.calls["encoder"]
    player.step(dict.fromkeys(fresh, 1))
    assert engine.calls["encoder"] == before + 1
    assert all(len(take.frames) == 3 for take in fresh)


def test_a_step_touches_no_slot_but_its_own(zoo: Zoo, kind: str) -> None:
    """Three rows, which are four where padding is to static shapes."""
    pair = zoo.pair(REGULAR_SYMMETRIC)
    engine, mode = pair.engines[kind], pair.modes[0]
    player = Player(engine)
    takes = [player.start(slot, excerpt(slot, 60_000), mode) for slot in range(SLOTS)]
    player.step(dict.fromkeys(takes, 3))
    before = [engine.save(take.slot) for take in takes[3:]]
    player.step(dict.fromkeys(takes[:3], 1))
    for take, state in zip(takes[3:], before, strict=True):
        after = engine.save(take.slot)
        assert after.counters == state.counters
        assert all(torch.equal(after.tensors[name], tensor) for name, tensor in state.tensors.items())
