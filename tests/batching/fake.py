"""An engine without a model: it hears every sample, and fails when it is told something inconsistent."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from worker.engine.interface import EngineInfo, Geometry, Mode, Row, SlotState, Tokens

# chunk 0 ends at 200 samples in the 80 ms mode and at 1,480 in the 160 ms mode
GEOMETRY = Geometry(16000, 160, 200, 8, {0: 0, 1: 0, 6: 0})
MODES = (Mode(0, "rnnt"), Mode(1, "rnnt"), Mode(1, "ctc"))
INFO = EngineInfo("fake", GEOMETRY, ("▁", "▁a", "b"), (0, 1, 6), ("rnnt", "ctc"))


@dataclass
class Slot:
    mode: Mode
    serial: int  # of the state, one up a step: a stale copy shows
    heard: list[np.ndarray] = field(default_factory=list)  # of the segment

    @property
    def samples(self) -> int:
        return sum(map(len, self.heard))


class FakeEngine:
    """Keeps each slot's audio. A token is one sample value, at the frame it lies in."""

    def __init__(self, slots: int, geometry: Geometry = GEOMETRY) -> None:
        self.info = EngineInfo(INFO.model_id, geometry, INFO.pieces, INFO.look_aheads, INFO.decoders)
        self.slots = slots
        self.held: list[Slot | None] = [None] * slots
        self.steps: list[list[Row]] = []
        self.calls = {"encoder": 0, "decoder": 0}
        self.seconds = {"features": 0.0, "encoder": 0.0, "decoder": 0.0}
        self._serial = 0

    def open(self, slot: int, mode: Mode) -> None:
        self.held[slot] = Slot(mode, self._next())

    def save(self, slot: int) -> SlotState:
        found = self.held[slot]
        assert found is not None, "saved a slot that was never opened"
        return SlotState(found.mode, {"serial": found.serial}, {"heard": list(found.heard)})

    def load(self, slot: int, state: SlotState) -> None:
        self.held[slot] = Slot(state.mode, state.counters["serial"], list(state.tensors["heard"]))

    def step(self, rows: Sequence[Row]) -> list[Tokens]:
        assert rows
        self.steps.append(list(rows))
        self.calls = {name: count + 1 for name, count in self.calls.items()}
        self.seconds = {name: total + 0.25 for name, total in self.seconds.items()}
        assert len({row.slot for row in rows}) == len(rows), "a slot twice in one step"
        found = [self.held[row.slot] for row in rows]
        assert all(slot is not None for slot in found), "stepped a slot that was never opened"
        assert len({slot.mode for slot in found if slot}) == 1, "two modes in one step"
        return [self._hear(row) for row in rows]

    def bytes_per_slot(self) -> int:
        return 1

    def device_memory(self) -> int:
        return 0

    def _hear(self, row: Row) -> Tokens:
        slot = self.held[row.slot]
        assert slot is not None
        slot.serial = self._next()
        slot.heard.append(row.samples)
        heard, look_ahead, geometry = slot.samples, slot.mode.look_ahead, self.info.geometry
        if row.last:
            assert heard, "an empty segment is no work"
            slot.heard = []
            frames = 1 + heard // geometry.frame_samples
        else:
            ends = {geometry.chunk_end(look_ahead, chunk): chunk + 1 for chunk in range(heard // 1280 + 2)}
            assert heard in ends, "a step ends between two chunks"
            frames = ends[heard] * geometry.chunk_frames(look_ahead)
        return Tokens(heard=frames)

    def _next(self) -> int:
        self._serial += 1
        return self._serial
