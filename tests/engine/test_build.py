"""Which engine serves a model: the fast one refuses what it does not know; the reference engine serves it, exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.engine.models import CHUNKED, Pair, Zoo
from tests.engine.play import difference, offline, play
from tests.engine.speech import excerpt
from worker.engine.build import build
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode, UnsupportedModel
from worker.engine.model import adopt
from worker.engine.reference import ReferenceEngine


def _relu(nemo: Any) -> None:
    nemo.encoder.layers[2].feed_forward2.activation = torch.nn.ReLU()


def _adapters(nemo: Any) -> None:
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    torch.manual_seed(3)
    layer = nemo.encoder.layers[1]
    layer.add_adapter("more", LinearAdapterConfig(in_features=CHUNKED.width, dim=8))
    for parameter in layer.adapter_layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)


def _pointwise(nemo: Any) -> None:
    nemo.encoder.layers[0].conv.pointwise_activation = lambda x: torch.nn.functional.glu(x, dim=1) * 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_relu, "feed-forward activation ReLU"),
        (_adapters, "adapters"),
        (_pointwise, "pointwise activation"),
    ],
)
def test_what_the_fast_engine_does_not_know_it_refuses_and_the_reference_engine_serves(
    zoo: Zoo, change: Callable[[Any], None], reason: str
) -> None:
    nemo, stock = zoo.build(CHUNKED), zoo.build(CHUNKED)
    samples = excerpt(0, 50_000)
    plain = offline(stock, samples, (28, 6))
    for model in (nemo, stock):
        change(model)
        model.eval()
    model = adopt(nemo, "the-model")
    with pytest.raises(UnsupportedModel, match=f"the-model.*does not compute {reason}.*model.engine: reference"):
        build(model, 2)
    (take,) = play(build(model, 2, "reference"), [samples], Mode(6, "ctc"))
    expected = offline(stock, samples, (28, 6))
    assert difference(expected, plain) > 1e-2  # the change is one that the fast step would have missed
    assert difference(take.frames, expected) <= 1e-4


def test_the_settings_choose_the_engine(zoo: Zoo, caplog: pytest.LogCaptureFixture) -> None:
    pair: Pair = zoo.pair(CHUNKED)
    assert isinstance(build(pair.model, 2, "reference"), ReferenceEngine)
    fast = build(pair.model, 2, dtype="bfloat16", max_frames=14)
    assert isinstance(fast, FastEngine)
    assert fast.bytes_per_slot() == FastEngine(pair.model, 2, torch.bfloat16, 14).bytes_per_slot()
    assert not caplog.messages


def test_a_type_that_the_reference_engine_lacks_is_not_passed_over_in_silence(
    zoo: Zoo, caplog: pytest.LogCaptureFixture
) -> None:
    engine = build(zoo.pair(CHUNKED).model, 1, "reference", dtype="bfloat16")
    assert isinstance(engine, ReferenceEngine)
    assert caplog.messages == ["chunked: bfloat16 is of the fast engine, the reference engine runs in float32"]
