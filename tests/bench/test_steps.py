"""The three engines of the encoder bench get equal input and do equal work, and the stock one is stock."""

import copy
from functools import partial

import pytest
import torch

from bench import encoder, floor, steps
from tests.engine.models import CHUNKED, Recipe, Zoo
from worker.engine import native
from worker.engine.fast.linear import Linear
from worker.engine.model import adopt
from worker.engine.reference import ReferenceEngine

RECIPE = Recipe("bench", ((28, 13), (28, 6), (28, 1), (28, 0)), layers=2)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def engines(zoo: Zoo) -> dict[str, steps.Stepper]:
    model = adopt(zoo.build(RECIPE), "bench")
    with torch.inference_mode():
        return encoder.steppers(model, encoder.streams(model, encoder.DISTINCT + 1, 20))


@torch.inference_mode()
@pytest.mark.parametrize(("look_ahead", "batch"), [(0, 1), (1, encoder.DISTINCT + 1), (6, 3), (13, 2)])
def test_all_engines_compute_the_same(engines: dict[str, steps.Stepper], look_ahead: int, batch: int) -> None:
    filled = encoder.fill(engines)
    for name, engine in engines.items():
        engine.load(filled[name], batch)
    first = encoder.FILL
    for _ in range(3):
        span = steps.mels_until(first), steps.mels_until(first + look_ahead + 1)
        first += look_ahead + 1
        outputs = {name: engine.step(look_ahead, batch, *span) for name, engine in engines.items()}
        for name, got in outputs.items():
            assert got.shape == (batch, look_ahead + 1, RECIPE.width), name
            assert float((got - outputs["reference"]).abs().max()) <= TOLERANCE, name


@torch.inference_mode()
def test_the_left_context_matters(engines: dict[str, steps.Stepper]) -> None:
    """A bench whose caches were empty, or the same for all streams, would agree with itself too."""
    filled = encoder.fill(engines)
    span = steps.mels_until(encoder.FILL), steps.mels_until(encoder.FILL + 2)
    for name, engine in engines.items():
        engine.load(filled[name], 2)
        full = engine.step(1, 2, *span)
        state = filled[name]
        second = [state[0][:, 1:], state[1][:, 1:], state[2][1:]] if name == "NeMo" else state[1:]
        engine.load(second, 2)
        other = engine.step(1, 2, *span)
        assert float((full[0] - other[0]).abs().max()) > 1e-2, name


def test_a_patched_encoder_is_no_stock(zoo: Zoo) -> None:
    model = adopt(zoo.build(CHUNKED), "patched")
    untouched = copy.deepcopy(model.encoder)
    ReferenceEngine(model, 1)
    steps.Stock(untouched, torch.zeros(1, 1, 80))
    with pytest.raises(ValueError, match="patched"):
        steps.Stock(model.encoder, torch.zeros(1, 1, 80))


def test_stock_and_engines_share_their_weights(zoo: Zoo) -> None:
    model = adopt(zoo.build(CHUNKED), "shared")
    copied = steps.unpatched_copy(model)
    pairs = zip(model.encoder.parameters(), copied.parameters(), strict=True)
    assert all(mine.data_ptr() == other.data_ptr() for mine, other in pairs)
    assert copied.layers[0].self_attn is not model.encoder.layers[0].self_attn


def test_disagreement_ends_the_bench() -> None:
    outputs = {"reference": torch.zeros(2, 3), "fast": torch.zeros(2, 3), "NeMo": torch.zeros(2, 3)}
    encoder.agree(outputs)
    for wrong in (torch.full((2, 3), 0.01), torch.zeros(2, 2), torch.full((2, 3), float("nan"))):
        with pytest.raises(SystemExit, match="NeMo"):
            encoder.agree(outputs | {"NeMo": wrong})


def test_multiply_adds_are_those_of_a_product_by_hand() -> None:
    x, w = torch.zeros(5, 7), torch.zeros(11, 7)
    assert floor.multiply_adds(lambda: torch.nn.functional.linear(x, w)) == 5 * 7 * 11


@pytest.mark.skipif(not native.loaded(), reason="no compiled operations")
def test_multiply_adds_of_compiled_operations_by_hand() -> None:
    multiply = Linear(torch.zeros(32, 7), None, torch.float32)
    assert floor.multiply_adds(lambda: multiply(torch.zeros(5, 7))) == 5 * 7 * 32
    # two streams of three queries, five keys, so seven distances; two heads of eight
    query, rows, hidden = torch.zeros(2, 3, 16), torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 1, 3, 5) > 0
    table, bias, positions = torch.zeros(1, 32), torch.zeros(16), torch.zeros(2, 8, 7)
    attend = partial(torch.ops.trunkline.attend, query, table, rows, hidden, bias, bias, positions, 0)
    assert floor.multiply_adds(attend) == 2 * 3 * 16 * (5 + 7 + 5)


def test_bytes_are_weights_once_and_context_once_a_stream() -> None:
    size = floor.Size(layers=2, width=4, hidden=8, kernel=9, left=10)
    weights = 2 * (4 * 4 * 8 + 3 * 16 + 16 + 32 + 16)
    one = 2 * (2 * 4 * 10 + 4 * 8) + 2 * 3 * 4 * 5
    assert floor.bytes_moved(size, 1, 5) == 4 * (weights + one)
    assert floor.bytes_moved(size, 3, 5) == 4 * (weights + 3 * one)


def test_a_floor_is_by_the_best_speeds_of_all_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks, readings = iter([20.0, 50.0, 10.0]), iter([8.0, 2.0, 4.0])
    monkeypatch.setattr(floor, "peak", lambda: next(peaks))
    monkeypatch.setattr(floor, "bandwidth", lambda: next(readings))
    machine = floor.Machine([1])
    for _ in range(3):
        machine.look()
    assert machine.floor(100, 8, 1) == 2.0  # bound by multiply-adds
    assert machine.floor(100, 80, 1) == 10.0  # by bytes
