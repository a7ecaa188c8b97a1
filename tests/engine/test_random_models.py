"""Streaming equals offline for any model that the fast engine accepts: models and sessions drawn at random.

A failure names the model and the session that showed it; one number reproduces a model with all its sessions.
TRUNKLINE_TESTS_SEED draws others, TRUNKLINE_TESTS_CASES says how many (`make exact`).
"""

import os
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import pytest
import torch

from tests.engine.greedy import Step, compare, steps
from tests.engine.models import Recipe, Zoo
from tests.engine.play import Take, difference, offline
from tests.engine.session import Signal, Stream, perform
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine, unknown
from worker.engine.interface import Geometry, Mode
from worker.engine.model import adopt

SEED = int(os.environ.get("TRUNKLINE_TESTS_SEED", "1"))
CASES = int(os.environ.get("TRUNKLINE_TESTS_CASES", "510"))
MODELS = min(50, -(-CASES // 15))
CROWD = 32  # streams at once, in some sessions

TOLERANCE = 1e-4
SAME = 2e-5  # between two plays of one signal beside different mates

Expected = tuple[torch.Tensor, list[Step]]


def draw_recipe(random: Random, name: str) -> Recipe:
    """Any encoder that both engines claim to stream."""
    style = random.choice(["chunked_limited", "chunked_limited", "regular"])
    layers = random.randint(1, 5)
    kernel = random.choice([3, 5, 9, 15])
    convolution: str | tuple[int, int] | None = random.choice(["causal", (kernel - 1, 0)])
    if style == "regular":
        to_the_right = random.randint(0, kernel - 1)
        convolution = random.choice(["causal", None, (kernel - 1 - to_the_right, to_the_right)])
    # the end of a segment must come within seconds: look-ahead adds up over the layers of a `regular` model
    rights = random.sample([0, 1, 2] if style == "regular" else [0, 1, 2, 3, 6, 13], random.randint(1, 3))
    chunks = [1 if style == "regular" else right + 1 for right in rights]
    lefts = [random.randint(0, 30 // chunk) * chunk for chunk in chunks]
    return Recipe(
        name,
        tuple(zip(lefts, rights, strict=True)),
        style=style,
        convolution=convolution,
        head=random.choice(["ctc", "hybrid", "rnnt"]),
        layers=layers,
        width=random.choice([16, 32, 48]),
        kernel=kernel,
        norm=random.choice(["layer_norm", "batch_norm", "fused_batch_norm"]),
        bias=random.random() < 0.5,
        xscaling=random.random() < 0.5,
        untie_biases=random.random() < 0.5,
        mels=random.choice([80, 128]),
        subsampling=random.choice(["dw_striding", "striding"]),
        factor=random.choice([4, 8, 8]),
        predictor_layers=random.randint(1, 2),
        seed=random.randrange(1000),
    )


def draw_length(random: Random, geometry: Geometry, look_aheads: tuple[int, ...]) -> int:
    """Samples: anything up to some chunks, often about where the counting of frames changes."""
    look_ahead = random.choice(look_aheads)
    most = geometry.recompute[look_ahead] + random.choice([3, 12, 30])
    near = random.choice([-geometry.hop, -1, 0, 1, geometry.hop])
    match random.choice(["any", "any", "frame", "chunk", "short"]):
        case "any":
            return random.randint(0, most * geometry.frame_samples)
        case "frame":
            return max(0, random.randint(0, most) * geometry.frame_samples + near)
        case "chunk":
            return geometry.chunk_end(look_ahead, random.randint(0, 12 // (look_ahead + 1))) + near
        case _:
            return random.randint(0, 3 * geometry.hop)


def draw_session(random: Random, signals: list[Signal]) -> list[Stream]:
    """Mostly a few streams, now and then a crowd, in which most are of one mode."""
    crowded = random.random() < 0.05
    favourite = random.randrange(6)
    return [
        Stream(
            mode=favourite if crowded and random.random() < 0.7 else random.randrange(6),
            segments=tuple(random.choice(signals) for _ in range(random.choice([1, 1, 1, 2, 3]))),
            joins=random.randint(0, 4),
            chunks=tuple(random.choice([0, 1, 1, 2, 3, 9]) for _ in range(random.randint(0, 30))),
            moves=frozenset(random.sample(range(12), random.choice([0, 0, 1, 2]))),
            empty_end=random.random() < 0.3,
        )
        for _ in range(random.randint(9, CROWD) if crowded else random.randint(1, 4))
    ]


def spread_norms(nemo: Any, seed: int) -> Any:
    """Give every norm weights other than 1 and 0, which would hide what becomes of them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in nemo.encoder.modules():
            if "Norm" in type(module).__name__:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.2)
    return nemo


def oracle(nemo: Any, left: dict[int, int]) -> Callable[[Signal, Mode], Expected]:
    """What NeMo makes of a signal offline, and the decisions of greedy decoding on it."""
    encoded = cache(lambda signal, look_ahead: offline(nemo, excerpt(*signal), (left[look_ahead], look_ahead)))

    @cache
    def expected(signal: Signal, mode: Mode) -> Expected:
        frames = encoded(signal, mode.look_ahead)
        return frames, steps(nemo, frames, mode.decoder) if len(frames) else []

    return expected


def check(take: Take, expected: Expected) -> float:
    """The share of frames up to the first ambiguous decision."""
    encoded, decisions = expected
    assert take.tokens.heard == len(encoded)
    assert difference(take.frames, encoded) <= TOLERANCE
    if decisions:
        return compare(take.tokens, decisions)
    assert not take.tokens.ids
    return 0.0


@pytest.mark.parametrize("number", range(MODELS), ids="model-{}".format)
def test_any_session_of_any_model_equals_offline(zoo: Zoo, number: int) -> None:
    """Streams join, pause, leave, catch up, move between slots; freed slots are full of NaN.

    Plays of one signal are nearly equal, whatever the mates and whichever engine.
    """
    random = Random(f"{SEED} {number}")
    recipe = draw_recipe(random, f"random-{SEED}-{number}")
    model = adopt(spread_norms(zoo.build(recipe), recipe.seed), recipe.name)
    assert not unknown(model)
    # they leave the NeMo model as it is; one pads to static shapes, as on CUDA
    engines = [FastEngine(model, CROWD + 1, buckets=buckets) for buckets in (False, True)]
    info = model.info
    modes = [Mode(look_ahead, decoder) for look_ahead in info.look_aheads for decoder in info.decoders]
    signals = [(random.randrange(100), draw_length(random, info.geometry, info.look_aheads)) for _ in range(12)]
    expected = oracle(model.nemo, model.left_context)
    shares = []
    first: dict[tuple[Signal, Mode], Take] = {}
    for case in range(CASES // MODELS):
        session = draw_session(random, signals)
        try:
            takes = perform(random.choice(engines), modes, session)
            assert len(takes) == sum(len(stream.segments) for stream in session)
            for signal, take in takes:
                shares.append(check(take, expected(signal, take.mode)))
                assert difference(take.frames, first.setdefault((signal, take.mode), take).frames) <= SAME
        except BaseException as error:
            error.add_note(f"TRUNKLINE_TESTS_SEED={SEED} TRUNKLINE_TESTS_CASES={CASES}, session {case}\n{recipe!r}")
            error.add_note("\n".join(map(repr, session)))
            raise
    assert max(shares) > 0.2
