"""What is known of a segment beside its audio: where each sample came from, what is missing, how it ended.

A segment is a run of audio that the engine treats as one file. *flush*, *end* and a long gap end it; stream time
runs on into the next.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

BoundaryReason = Literal["flush", "gap", "end", "idle", "restarted"]


@dataclass(frozen=True, slots=True)
class Source:
    """The input record that completed some audio."""

    offset: int
    timestamp: int  # Kafka's, ms


@dataclass(frozen=True, slots=True)
class Loss:
    """A short gap, filled with silence. Times in ms of stream time."""

    sample: int  # of the segment, at the engine's rate, where the silence begins
    start: int
    end: int
    source: Source  # of the record that made it known


@dataclass(frozen=True, slots=True)
class Boundary:
    """How a segment ended."""

    reason: BoundaryReason
    time: int  # ms of stream time
    source: Source
    flush_id: str = ""
    gap_end: int = 0  # ms of stream time at which audio goes on, for a gap
    gap_ms: int = 0  # of the whole stream so far, for its end

    @property
    def ends_stream(self) -> bool:
        return self.reason in ("end", "idle", "restarted")

    @property
    def resumes(self) -> int:
        """Stream time in ms at which the next segment begins."""
        return self.gap_end if self.reason == "gap" else self.time


@dataclass(slots=True)
class Segment:
    """The sources of a segment's samples, oldest first."""

    origin: int  # ms of stream time of the segment's first sample
    losses: deque[Loss] = field(default_factory=deque)
    boundary: Boundary | None = None
    _ends: list[int] = field(default_factory=list)
    _sources: list[Source] = field(default_factory=list)

    def mark(self, end: int, source: Source) -> None:
        """The samples up to `end` (engine's rate) have come, the latest with `source`."""
        self._ends.append(end)
        self._sources.append(source)

    def completing(self, samples: int) -> Source:
        """The record with which the first `samples` samples had come."""
        return self._sources[min(bisect_left(self._ends, samples), len(self._sources) - 1)]

    def holding(self, sample: int) -> Source:
        """The record that brought sample number `sample`."""
        return self._sources[min(bisect_right(self._ends, sample), len(self._sources) - 1)]

    def oldest_after(self, samples: int) -> Source | None:
        """The oldest record with audio beyond the first `samples` samples."""
        index = bisect_right(self._ends, samples)
        return self._sources[index] if index < len(self._ends) else None

    def forget(self, sample: int) -> None:
        """Drop what is only needed for samples before number `sample`; the last mark stays."""
        index = min(bisect_right(self._ends, sample), len(self._ends) - 1)
        if index > 0:
            del self._ends[:index], self._sources[:index]

    def state(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "origin": self.origin,
            "losses": [asdict(loss) for loss in self.losses],
            "boundary": asdict(self.boundary) if self.boundary else None,
            "ends": list(self._ends),
            "sources": [(source.offset, source.timestamp) for source in self._sources],
        }

    @classmethod
    def restore(cls, state: dict[str, Any]) -> "Segment":
        """The segment that `state` was taken of."""
        boundary = state["boundary"]
        return cls(
            origin=state["origin"],
            losses=deque(_with_source(Loss, loss) for loss in state["losses"]),
            boundary=_with_source(Boundary, boundary) if boundary else None,
            _ends=list(state["ends"]),
            _sources=[Source(*source) for source in state["sources"]],
        )


Known = TypeVar("Known", Loss, Boundary)


def _with_source(kind: type[Known], state: dict[str, Any]) -> Known:
    return kind(**state | {"source": Source(**state["source"])})
