"""What a slot refuses: a mode that the model lacks, to be copied before its first use, another engine's state."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.engine.models import CHUNKED, SLOTS, Zoo
from tests.engine.play import Player
from tests.engine.speech import excerpt
from worker.engine.fast.engine import FastEngine
from worker.engine.interface import Mode, SlotState


@pytest.mark.parametrize("mode", [Mode(3, "ctc"), Mode(6, "rnnt")], ids=str)
def test_a_mode_that_the_model_lacks_is_refused(zoo: Zoo, kind: str, mode: Mode) -> None:
    engine = zoo.pair(CHUNKED).engines[kind]
    with pytest.raises(ValueError, match=rf"look_ahead={mode.look_ahead}, decoder='{mode.decoder}'.*not one of"):
        engine.open(0, mode)


def test_a_slot_that_was_never_opened_cannot_be_saved(zoo: Zoo) -> None:
    engine = FastEngine(zoo.pair(CHUNKED).model, 2)
    engine.open(0, Mode(6, "ctc"))
    engine.save(0)
    with pytest.raises(ValueError, match="slot 1 was never opened"):
        engine.save(1)


Change = Callable[[SlotState], SlotState]


def _without(state: SlotState) -> SlotState:
    return replace(state, tensors={name: t for name, t in state.tensors.items() if name != "audio"})


def _renamed(state: SlotState) -> SlotState:
    return replace(state, tensors={name.replace("audio", "sound"): t for name, t in state.tensors.items()})


def _longer(state: SlotState) -> SlotState:
    return replace(state, tensors=state.tensors | {"audio": torch.zeros(401)})


def _broadcast(state: SlotState) -> SlotState:
    return replace(state, tensors=state.tensors | {"audio": torch.zeros(1)})


def _other_type(state: SlotState) -> SlotState:
    return replace(state, tensors=state.tensors | {"audio": torch.zeros(400, dtype=torch.bfloat16)})


@pytest.mark.parametrize("change", [_without, _renamed, _longer, _broadcast, _other_type])
def test_state_of_another_layout_is_refused_and_changes_no_slot(zoo: Zoo, kind: str, change: Change) -> None:
    engine, mode = zoo.pair(CHUNKED).engines[kind], Mode(6, "ctc")
    player = Player(engine)
    take = player.start(0, excerpt(0, 40_000), mode)
    player.step({take: 1})
    engine.open(SLOTS - 1, Mode(0, "ctc"))
    before = engine.save(SLOTS - 1)
    with pytest.raises(ValueError, match="does not fit this engine"):
        engine.load(SLOTS - 1, change(engine.save(0)))
    after = engine.save(SLOTS - 1)
    assert (after.mode, after.counters) == (before.mode, before.counters)
    assert all(torch.equal(after.tensors[name], tensor) for name, tensor in before.tensors.items())
