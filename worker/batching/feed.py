"""One stream's audio on its way to the engine."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from worker.engine.interface import Geometry, Mode, Samples, SlotState

# What waits in memory, so that tiny records and bare flushes count too: a sample, what comes with each piece of audio
# (the array, its marks), and what comes with each further segment, as measured with 100,000 of them.
SAMPLE_BYTES = 4
PIECE_BYTES = 550
SEGMENT_BYTES = 3_000


@dataclass(frozen=True, slots=True)
class FeedState:
    """A feed's audio as plain values, but for the mode.

    `runs`: one map a segment that the engine has not finished: samples (not yet taken, float32 little-endian),
    received and taken (samples of the segment), chunks (taken), closed.
    """

    mode: Mode
    runs: list[dict[str, Any]]
    ending: bool


@dataclass(slots=True)
class _Run:
    """Audio of one segment that the engine has not taken."""

    pieces: deque[Samples] = field(default_factory=deque)
    arrivals: deque[tuple[int, float]] = field(default_factory=deque)  # samples of the segment by then, clock
    received: int = 0  # samples of the segment
    taken: int = 0
    chunks: int = 0  # chunks of the segment taken
    closed: float | None = None  # clock

    def push(self, samples: Samples, now: float) -> None:
        self.pieces.append(samples)
        self.received += len(samples)
        self.arrivals.append((self.received, now))

    def copy(self) -> "_Run":
        """The samples themselves are shared: nothing writes into them."""
        return replace(self, pieces=self.pieces.copy(), arrivals=self.arrivals.copy())

    def state(self) -> dict[str, Any]:
        return {
            "samples": b"".join(np.asarray(piece, "<f4").tobytes() for piece in self.pieces),
            "received": self.received,
            "taken": self.taken,
            "chunks": self.chunks,
            "closed": self.closed is not None,
        }

    @classmethod
    def restore(cls, state: dict[str, Any], now: float) -> "_Run":
        run = cls(taken=state["taken"], received=state["taken"], chunks=state["chunks"])
        samples = np.frombuffer(state["samples"], "<f4").astype(np.float32)
        if len(samples):
            run.push(samples, now)
        if run.received != state["received"]:
            raise ValueError(f"{len(samples)} samples wait, {state['received'] - state['taken']} were to come")
        run.closed = now if state["closed"] else None
        return run


class Feed:
    """Audio waiting in segments, and where the stream's engine state is: in a slot, saved, or fresh.

    `began`: clock, when this worker took the stream on; of two that want a slot, the first has the better claim.

    While a capture is under way there are two accounts of the audio. What the engine takes leaves the first one only;
    what comes is put into both. So the second, the mirror, is always the audio that belongs to the copy of the slot.

    Guarded by the scheduler's lock; only the scheduler calls it.
    """

    def __init__(self, mode: Mode, geometry: Geometry, owner: Any, began: float) -> None:
        self.mode = mode
        self.owner = owner
        self.began = began
        self.slot: int | None = None
        self.saved: SlotState | None = None
        self.in_flight = False
        self.queued = False
        self.ending = False  # no segment follows the last one
        self.dropped = False
        self.capturing = False  # from the request to the answer
        self.bytes = 0  # of memory that what waits takes, about
        self._geometry = geometry
        self._runs: deque[_Run] = deque([_Run()])
        self._mirror: deque[_Run] | None = None

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
        self.bytes += len(samples) * SAMPLE_BYTES + PIECE_BYTES
        for runs in self._accounts:
            runs[-1].push(samples, now)

    def close(self, now: float, ending: bool) -> None:
        """End the segment; with `ending` the stream."""
        self.ending = ending
        self.bytes += 0 if ending else SEGMENT_BYTES
        for runs in self._accounts:
            runs[-1].closed = now
            if not ending:
                runs.append(_Run())

    def reflect(self) -> None:
        """Begin the mirror: what the engine holds from now on differs from what is being copied."""
        self._mirror = deque(run.copy() for run in self._runs)

    def captured(self) -> FeedState | None:
        """End the mirror; its audio, None if there is none."""
        runs, self._mirror, self.capturing = self._mirror, None, False
        return FeedState(self.mode, [run.state() for run in runs], self.ending) if runs else None

    def restore(self, state: FeedState, now: float) -> None:
        """Go on with a captured feed's audio, as if it had come now. Raises ValueError for a state that cannot be."""
        if not state.runs:
            raise ValueError("a feed without a segment has nothing to go on with")
        self._runs = deque(_Run.restore(run, now) for run in state.runs)
        self.ending = state.ending
        pieces = sum(len(run.pieces) for run in self._runs)
        self.bytes = self.waiting * SAMPLE_BYTES + pieces * PIECE_BYTES + (len(self._runs) - 1) * SEGMENT_BYTES

    @property
    def begun(self) -> bool:
        """The engine has taken audio of the segment at the head."""
        return bool(self._runs) and self._runs[0].taken > 0

    @property
    def _accounts(self) -> tuple[deque[_Run], ...]:
        return (self._runs,) if self._mirror is None else (self._runs, self._mirror)

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
        pieces = len(run.pieces)
        samples = self._cut(run, end - run.taken)
        self.bytes -= len(samples) * SAMPLE_BYTES + (pieces - len(run.pieces)) * PIECE_BYTES
        if last:
            self._runs.popleft()
            self.bytes -= SEGMENT_BYTES if self._runs else 0
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
