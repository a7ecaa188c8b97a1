"""Sixteen ready streams of mixed length are one encoder call and one decoder call, counted from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tests.engine.models import SLOTS, Pair
from tests.engine.play import Player
from tests.engine.speech import excerpt
from worker.engine.interface import Mode

ATTENTION = "scaled_dot_product_attention"  # once a layer


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
    encoder = (nemo.encoder, "forward_internal") if kind == "reference" else (torch.nn.functional, ATTENTION)
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
