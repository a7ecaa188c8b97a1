"""Packed weights give what plain ones give, and a row does not see its mates. Small models never pack: hence these."""

import pytest
import torch

from tests.engine.models import Recipe, Zoo
from tests.engine.play import difference, offline, play
from tests.engine.speech import RATE, excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.fast.linear import LEAST_WEIGHTS, Linear
from worker.engine.interface import Mode
from worker.engine.model import adopt

WIDE = Recipe("wide", ((14, 1),), layers=1, width=512, expansion=1)
OUTPUTS, INPUTS = 1024, 512


@torch.inference_mode()
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (8, 1), (3, 7), (32, 14)])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_weights_give_the_product(shape: tuple[int, int], bias: bool) -> None:
    assert OUTPUTS * INPUTS >= LEAST_WEIGHTS
    torch.manual_seed(0)
    weight, shift = torch.randn(OUTPUTS, INPUTS), torch.randn(OUTPUTS) if bias else None
    x = torch.randn(*shape, INPUTS)
    expected = x.double() @ weight.double().T + (0.0 if shift is None else shift.double())
    linear = Linear(weight, shift, torch.float32, packed=True)
    assert linear._packed is not None
    got = linear(x)
    assert got.shape == (*shape, OUTPUTS)
    assert float((got - expected).abs().max()) < 1e-3  # of values near 20


@torch.inference_mode()
def test_a_row_of_a_packed_product_does_not_see_its_mates() -> None:
    linear = Linear(torch.randn(OUTPUTS, INPUTS), None, torch.float32, packed=True)
    x = torch.randn(8, 2, INPUTS)
    alone = linear(x)[3]
    x[:3], x[4:] = torch.randn(3, 2, INPUTS), torch.randn(4, 2, INPUTS)
    assert torch.equal(linear(x)[3], alone)
    assert torch.equal(linear(x.flip(0))[4], alone)


def test_small_weights_and_other_types_stay_as_they_are() -> None:
    large = torch.randn(OUTPUTS, INPUTS)
    assert Linear(torch.randn(8, 8), None, torch.float32, packed=True)._packed is None
    assert Linear(large, None, torch.bfloat16, packed=True)._packed is None
    assert Linear(large, None, torch.float32, packed=False)._packed is None
    assert Linear(large.to("meta"), None, torch.float32, packed=True)._packed is None


def test_an_engine_on_packed_weights_equals_nemo_offline(zoo: Zoo) -> None:
    model = adopt(zoo.build(WIDE), "wide")
    engine = FastEngine(model, 3)
    assert engine._step._layers[0]._feed1._expand._packed is not None
    signals = [excerpt(2 * i, round(seconds * RATE)) for i, seconds in enumerate((4.0, 3.3, 2.1))]
    stock = zoo.build(WIDE)
    for take, samples in zip(play(engine, signals, Mode(1, "ctc")), signals, strict=True):
        assert difference(take.frames, offline(stock, samples, (14, 1))) <= 1e-4
