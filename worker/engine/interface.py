"""What the service knows of an engine. The reference engine and the fast engine both stand behind it.

An engine owns a fixed number of *slots*. A slot holds everything the device remembers of one stream. The
service opens a slot for a stream, hands rows of audio to `step`, and may copy a slot out and in again. Audio
comes as segments: a row with `last` set ends one, its tail is computed as at the end of a file, and the slot
is as fresh afterwards as if it had just been opened.

Only the thread that owns the engine calls it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Mode:
    """What all rows of one step must share; fixed for the life of a stream."""

    look_ahead: int  # encoder frames of right context
    decoder: str  # "rnnt" or "ctc"


@dataclass(frozen=True, slots=True)
class Geometry:
    """How samples, mel frames and encoder frames of one model relate.

    Encoder frame i needs mel frames up to `subsampling * i`; mel frame f needs samples up to
    `f * hop + half_window - 1` (centred window).
    """

    sample_rate: int
    hop: int  # samples per mel frame
    half_window: int  # samples
    subsampling: int  # mel frames per encoder frame
    recompute: dict[int, int]  # look-ahead -> frames a step needs beyond those it emits (0 when chunked)

    @property
    def frame_samples(self) -> int:
        return self.hop * self.subsampling

    @property
    def frame_ms(self) -> int:
        return self.frame_samples * 1000 // self.sample_rate

    def chunk_frames(self, look_ahead: int) -> int:
        """Encoder frames that one chunk emits."""
        return look_ahead + 1

    def chunk_samples(self, look_ahead: int) -> int:
        return self.chunk_frames(look_ahead) * self.frame_samples

    def chunk_end(self, look_ahead: int, chunk: int) -> int:
        """Samples of a segment that must have come before chunk number `chunk` (from 0) can be computed."""
        last_frame = (chunk + 1) * self.chunk_frames(look_ahead) - 1 + self.recompute[look_ahead]
        return last_frame * self.frame_samples + self.half_window


@dataclass(slots=True)
class Row:
    """One stream's share of a step: whole chunks of audio or, with `last`, all that is left of the segment."""

    slot: int
    samples: Samples  # (n,) at Geometry.sample_rate
    last: bool = False


@dataclass(slots=True)
class Tokens:
    """What one row's audio added to its transcript."""

    ids: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)  # encoder frame of each token, counted from the segment's start
    confidences: list[float] = field(default_factory=list)  # maximum probability of each token
    heard: int = 0  # encoder frames of the segment decoded so far


@dataclass(frozen=True, slots=True)
class SlotState:
    """A copy of one slot in host memory. Written back, it continues bit for bit."""

    mode: Mode
    counters: dict[str, int]
    tensors: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the rest of the service needs to know of the loaded model."""

    model_id: str
    geometry: Geometry
    pieces: tuple[str, ...]  # vocabulary without blank; a piece that starts a word begins with U+2581
    look_aheads: tuple[int, ...]
    decoders: tuple[str, ...]  # the first is the default


class ModelUnavailable(Exception):
    """The model cannot be loaded here; the text says what is wrong and what to do."""


class UnsupportedModel(Exception):
    """The model cannot be streamed exactly. `problems` has one sentence a reason."""

    def __init__(self, model_id: str, problems: list[str]) -> None:
        super().__init__(f"model {model_id!r} is not supported: " + "; ".join(problems))
        self.problems = problems


class Engine(Protocol):
    """A batched step over slots."""

    info: EngineInfo
    slots: int
    calls: dict[str, int]  # "encoder" and "decoder", so far
    seconds: dict[str, float]  # of the host in "features", "encoder" and "decoder", so far

    def open(self, slot: int, mode: Mode) -> None:
        """Make `slot` fresh for a new stream: zeroed caches, the decoder's after-start state."""

    def step(self, rows: Sequence[Row]) -> list[Tokens]:
        """Advance every row by its audio, in one encoder and one decoder call.

        Raises ValueError if rows differ in mode, name a slot twice, or end between two chunks.
        """

    def save(self, slot: int) -> SlotState:
        """Copy a slot to host memory."""

    def load(self, slot: int, state: SlotState) -> None:
        """Write a saved state into a slot, any slot."""

    def bytes_per_slot(self) -> int:
        """Device memory that one slot takes."""

    def device_memory(self) -> int:
        """Bytes that this process holds on the accelerator, weights and scratch included; 0 where there is none."""
