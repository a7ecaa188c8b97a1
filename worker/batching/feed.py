"""One stream's audio on its way to the engine."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worker.engine.interface import Geometry, Mode, Samples, SlotState


@dataclass(slots=True)
class _Run:
    """Audio of one segment that the engine has not taken."""

    pieces: deque[Samples] = field(default_factory=deque)
    arrivals: deque[tuple[int, float]] = field(default_factory=deque)  # samples of the segment by then, clock
    received: int = 0  # samples of the segment
    taken: int = 0
    chunks: int = 0  # chunks of the segment taken
    closed: float | None = None  # clock


class Feed:
    """Audio waiting in segments, and where the stream's engine state is: in a slot, saved, or fresh.

    Guarded by the scheduler's lock; only the scheduler calls it.
    """

    def __init__(self, mode: Mode, geometry: Geometry, owner: Any) -> None:
        self.mode = mode
        self.owner = owner
        self.slot: int | None = None
        self.saved: SlotState | None = None
        self.in_flight = False
        self.queued = False
        self.ending = False  # no segment follows the last one
        self.dropped = False
        self._geometry = geometry
        self._runs: deque[_Run] = deque([_Run()])

    @property
    def waiting(self) -> int:
        """Samples not yet taken."""
        return sum(run.received - run.taken for run in self._runs)

    @property
    def finished(self) -> bool:
        return self.ending and not self._runs

    @property
    def silent(self) -> bool:
        """The segment at the head has closed without a sample: nothing for the engine to do."""
        return bool(self._runs) and self._runs[0].closed is not None and not self._runs[0].received

    def push(self, samples: Samples, now: float) -> None:
        run = self._runs[-1]
        run.pieces.append(samples)
        run.received += len(samples)
        run.arrivals.append((run.received, now))

    def close(self, now: float, ending: bool) -> None:
        """End the segment; with `ending` the stream."""
        self._runs[-1].closed = now
        self.ending = ending
        if not ending:
            self._runs.append(_Run())

    def due(self) -> float | None:
        """When what the engine may take now had come; None if there is nothing to take."""
        if not self._runs:
            return None
        run = self._runs[0]
        need = self._chunk_end(run.chunks)
        if run.received >= need:
            while run.arrivals[0][0] < need:
                run.arrivals.popleft()
            return run.arrivals[0][1]
        return run.closed

    def take(self, max_chunks: int) -> tuple[Samples, bool]:
        """Up to `max_chunks` chunks, and whether they end the segment (its rest is then included)."""
        run = self._runs[0]
        chunks = 0
        while chunks < max_chunks and run.received >= self._chunk_end(run.chunks + chunks):
            chunks += 1
        end = self._chunk_end(run.chunks + chunks - 1) if chunks else run.taken
        last = run.closed is not None and (chunks < max_chunks or end == run.received)
        if last:
            end = run.received
        run.chunks += chunks
        samples = self._cut(run, end - run.taken)
        if last:
            self._runs.popleft()
        return samples, last

    def _chunk_end(self, chunk: int) -> int:
        return self._geometry.chunk_end(self.mode.look_ahead, chunk)

    @staticmethod
    def _cut(run: _Run, count: int) -> Samples:
        run.taken += count
        parts: list[Samples] = []
        while count:
            piece = run.pieces.popleft()
            if len(piece) > count:
                run.pieces.appendleft(piece[count:])
                piece = piece[:count]
            parts.append(piece)
            count -= len(piece)
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
