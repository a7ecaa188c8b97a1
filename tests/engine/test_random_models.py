"""Streaming equals offline for any model that the fast engine accepts: models and sessions drawn at random.

A failure names the model and the session that showed it; one number reproduces a model with all its sessions.
TRUNKLINE_TESTS_SEED draws others, TRUNKLINE_TESTS_CASES says how many (`make exact`).
"""

import os
from random import Random
from typing import Any

import pytest
import torch

from tests.engine.models import Recipe, Zoo
from tests.engine.play import Take, difference
from tests.engine.session import CROWD, Met, Signal, check, draw_crowd, draw_session, oracle, perform
from worker.engine.fast.engine import FastEngine, unknown
from worker.engine.interface import Geometry, Mode
from worker.engine.model import adopt

SEED = int(os.environ.get("TRUNKLINE_TESTS_SEED", "1"))
CASES = int(os.environ.get("TRUNKLINE_TESTS_CASES", "510"))
MODELS = min(50, -(-CASES // 17))
SAME = 2e-5  # between two plays of one signal beside different mates


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


def draw_signals(random: Random, engine: FastEngine) -> list[Signal]:
    """One in three is longer than the rings, so that they wrap; the others are mostly short."""
    geometry, look_aheads = engine.info.geometry, engine.info.look_aheads
    capacity = engine._arenas.view("kv").shape[2]
    lengths = [
        (capacity + random.randint(1, 12)) * geometry.frame_samples + draw_near(random, geometry) for _ in range(3)
    ]
    lengths += [draw_length(random, geometry, random.choice(look_aheads)) for _ in range(7)]
    return [(random.randrange(100), length) for length in lengths]


def draw_length(random: Random, geometry: Geometry, look_ahead: int) -> int:
    """Samples: anything up to some chunks, often about where the counting of frames changes."""
    most = geometry.recompute[look_ahead] + random.choice([3, 12, 30])
    near = draw_near(random, geometry)
    match random.choice(["any", "any", "frame", "chunk", "short"]):
        case "any":
            return random.randint(0, most * geometry.frame_samples)
        case "frame":
            return max(0, random.randint(0, most) * geometry.frame_samples + near)
        case "chunk":
            return geometry.chunk_end(look_ahead, random.randint(0, 12 // (look_ahead + 1))) + near
        case _:
            return random.randint(0, 3 * geometry.hop)


def draw_near(random: Random, geometry: Geometry) -> int:
    """Samples beside a length about which counting changes."""
    return random.choice([-geometry.hop, -1, 0, 1, geometry.hop])


def spread_norms(nemo: Any, seed: int) -> Any:
    """Give every norm weights other than 1 and 0, which would hide what becomes of them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for module in nemo.encoder.modules():
            if "Norm" in type(module).__name__:
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.2)
    return nemo


@pytest.mark.parametrize("number", range(MODELS), ids="model-{}".format)
def test_any_session_of_any_model_equals_offline(zoo: Zoo, number: int) -> None:
    """Streams join, pause, leave, catch up, move between slots; freed slots are full of NaN.

    Plays of one signal are nearly equal, whatever the mates and whichever engine. Every model meets a crowd, rings that
    wrap and steps of several passes.
    """
    random = Random(f"{SEED} {number}")
    recipe = draw_recipe(random, f"random-{SEED}-{number}")
    model = adopt(spread_norms(zoo.build(recipe), recipe.seed), recipe.name)
    assert not unknown(model)
    # at least a chunk; they leave the NeMo model as it is; one pads to static shapes, as on CUDA
    most = random.choice([1, 6, 13, 28])
    engines = [FastEngine(model, CROWD + 1, max_frames=most, buckets=buckets) for buckets in (False, True)]
    info = model.info
    if number % 4 == 0:  # recording takes long
        for look_ahead in info.look_aheads:
            engines[0].warm_up(Mode(look_ahead, info.decoders[0]), CROWD)
        assert len(engines[0]._recorder.made) >= len(info.look_aheads)
    modes = [Mode(look_ahead, decoder) for look_ahead in info.look_aheads for decoder in info.decoders]
    signals = draw_signals(random, engines[0])
    expected = oracle(model.nemo, model.left_context)
    first: dict[tuple[Signal, Mode], Take] = {}
    met, longest = Met(), 0
    for case in range(CASES // MODELS):
        session = draw_session(random, signals) if case else draw_crowd(random, signals)
        try:
            takes = perform(random.choice(engines), modes, session, met)
            assert len(takes) == sum(len(stream.segments) for stream in session)
            for signal, take in takes:
                sure = check(model.nemo, take, expected(signal, take.mode.look_ahead))
                other = first.setdefault((signal, take.mode), take)
                assert difference(take.frames, other.frames) <= SAME
                assert before(take, sure) == before(other, sure)
                longest = max(longest, len(take.frames))
        except BaseException as error:
            error.add_note(f"TRUNKLINE_TESTS_SEED={SEED} TRUNKLINE_TESTS_CASES={CASES}, session {case}\n{recipe!r}")
            error.add_note("\n".join(map(repr, session)))
            raise
    assert met.rows >= CROWD // 2
    assert met.passes > 1
    assert longest > engines[0]._arenas.view("kv").shape[2]  # a ring wrapped


def before(take: Take, frame: int) -> list[tuple[int, int]]:
    """Labels and frames of the tokens before a frame."""
    return [token for token in zip(take.tokens.ids, take.tokens.frames, strict=True) if token[1] < frame]
