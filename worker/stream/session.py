"""One stream from its records to 16 kHz audio: order, duplicates, gaps, decoding, resampling, segments.

Everything here follows from the records in log order, so a replay gives the same segments.
"""

import heapq
from collections import deque
from dataclasses import astuple, dataclass
from typing import Any, Literal

import numpy as np

from wire.fields import WireError
from wire.records import Audio, Encoding, End, Flush, Start
from worker.stream.pcm import Samples, decode, sample_width
from worker.stream.resample import Resampler
from worker.stream.segment import Boundary, BoundaryReason, Loss, Source

# A producer repeats no more than a batch, which holds few flushes.
FLUSHES = 16
# Records ahead of their place that are kept: ten times what a producer of 20 ms records can have in two seconds.
HELD_RECORDS = 1_000


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """How a deployment treats disorder; in ms of stream time."""

    reorder_ms: int
    gap_fill_ms: int
    max_gap_ms: int


@dataclass(frozen=True, slots=True)
class Speech:
    """Samples at the engine's rate, the next of the segment."""

    samples: Samples
    source: Source


Item = Speech | Loss | Boundary


@dataclass(slots=True)
class _Held:
    """Audio that came before what precedes it."""

    sequence: int
    samples: Samples
    source: Source


class Session:
    """Puts one stream's records in order. Each method returns what came of the record, in stream order.

    Audio is ordered by position. What lies before the expected position was heard already and is cut off. A record
    ahead of it waits until `reorder_ms` of later audio, or HELD_RECORDS records of it, have come; then the missing span
    is given up. If its sequence number is the next one, no record is missing: the producer left the span out, and it is
    given up at once.
    """

    def __init__(
        self,
        encoding: Encoding,
        sample_rate: int,
        nonce: str | None,
        limits: SessionLimits,
        began: Source,
        rate_out: int = 16000,
    ) -> None:
        self.nonce = nonce
        self.encoding: Encoding = encoding
        self.sample_rate = sample_rate
        self.byte_rate = sample_rate * sample_width(encoding)  # of payloads, in bytes a second
        self.duplicates = 0  # samples that came again
        self.flushes: deque[tuple[str, int | None]] = deque(maxlen=FLUSHES)  # id and position of those answered last
        self.gap_ms = 0
        self._limits = limits
        self._resampler = Resampler(sample_rate, rate_out)
        self._position = 0
        self._sequence = -1
        self._held: dict[int, _Held] = {}  # by position
        self._waiting: list[int] = []  # heap of the positions in _held
        self._held_samples = 0
        self._produced = 0  # samples of the segment at the engine's rate
        self._source = began
        self._joining = False  # the records up to the first audio to come were lost to the retention

    def begin_at(self, position: int) -> None:
        """Begin a stream whose early records the log no longer has; stream time goes on from `position` (samples).

        Whatever lies between it and the next audio to come cannot come any more: that audio is taken at once, however
        far ahead, and what is missing is a gap.
        """
        self._position = position
        self._joining = True

    def state(self) -> dict[str, Any]:
        """All that the items to come depend on, besides the records to come and the limits; plain values."""
        return {
            "encoding": self.encoding,
            "sample_rate": self.sample_rate,
            "nonce": self.nonce,
            "duplicates": self.duplicates,
            "gap_ms": self.gap_ms,
            "resampler": dict(self._resampler.state()),
            "position": self._position,
            "sequence": self._sequence,
            "held": [
                [position, held.sequence, held.samples.astype("<f4").tobytes(), astuple(held.source)]
                for position, held in self._held.items()
            ],
            "produced": self._produced,
            "source": astuple(self._source),
            "joining": self._joining,
            "flushes": list(self.flushes),
        }

    @classmethod
    def restore(cls, state: dict[str, Any], limits: SessionLimits, rate_out: int = 16000) -> "Session":
        """The session that `state` was taken of. Raises ValueError if that one was for another `rate_out`."""
        source = Source(*state["source"])
        session = cls(state["encoding"], state["sample_rate"], state["nonce"], limits, source, rate_out)
        session.duplicates, session.gap_ms = state["duplicates"], state["gap_ms"]
        session._resampler.restore(state["resampler"])
        session._position, session._sequence = state["position"], state["sequence"]
        for position, sequence, payload, held_source in state["held"]:
            samples = np.frombuffer(payload, "<f4").astype(np.float32)
            session._held[position] = _Held(sequence, samples, Source(*held_source))
            session._held_samples += len(samples)
        session._waiting = sorted(session._held)
        session._produced = state["produced"]
        session._joining = state["joining"]
        session.flushes.extend((flush_id, position) for flush_id, position in state["flushes"])
        return session

    def accepts_nonce(self, nonce: str | None) -> bool:
        return nonce is None or nonce == self.nonce

    def start_again(self, start: Start) -> bool:
        """Whether `start` only repeats the one that began this stream."""
        return start.nonce == self.nonce

    def audio(self, record: Audio, source: Source) -> list[Item]:
        """Raises WireError for audio that cannot be used; the stream goes on."""
        try:
            samples = decode(record.payload, self.encoding)
        except WireError:
            # it was sent, so what follows need not wait for it
            if record.sequence == self._sequence + 1:
                self._sequence += 1
            raise
        ahead = record.position - self._position
        if ahead > self._samples(self._limits.max_gap_ms) and not self._joining:
            raise WireError(
                "position_out_of_range",
                f"position {record.position} lies {ahead} samples ahead, more than {self._limits.max_gap_ms} ms",
                "position",
            )
        self._source = source
        if ahead + len(samples) <= 0:
            self.duplicates += len(samples)
            return []
        items: list[Item] = []
        if ahead > 0 and record.sequence != self._sequence + 1 and not self._joining:
            self._hold(record, samples, source)
            self._release(items)  # a record rejected since may be all that this audio waited for
            while self._held_samples >= self._samples(self._limits.reorder_ms) or len(self._held) > HELD_RECORDS:
                self._release(items, give_up=True)
            return items
        self._joining = False
        if ahead > 0:
            self._lose(record.position, source, items)
        self._append(record.position, _Held(record.sequence, samples, source), items)
        self._release(items)
        return items

    def flush(self, record: Flush, source: Source) -> list[Item]:
        """Close the segment; the engine starts afresh with what comes next. Nothing comes of a flush sent again."""
        if (record.id, record.position) in self.flushes:
            return []
        self.flushes.append((record.id, record.position))
        items = self._settle(record.position, source)
        self._close("flush", source, items, flush_id=record.id)
        return items

    def end(self, record: End, source: Source) -> list[Item]:
        return self._finish("end", record.position, source)

    def idle(self) -> list[Item]:
        """The clock decided that nothing more will come."""
        return self._finish("idle", None, self._source)

    def restarted(self, source: Source) -> list[Item]:
        """Another start took the stream's name."""
        return self._finish("restarted", None, source)

    @property
    def position(self) -> int:
        """The next sample expected."""
        return self._position

    @property
    def time(self) -> int:
        """Stream time in ms at the expected position."""
        return self._ms(self._position)

    def _finish(self, reason: Literal["end", "idle", "restarted"], position: int | None, source: Source) -> list[Item]:
        items = self._settle(position, source)
        self._close(reason, source, items)
        return items

    def _settle(self, position: int | None, source: Source) -> list[Item]:
        """Give up all that is missing before `position`, or before the latest audio held."""
        self._source = source
        items: list[Item] = []
        while self._held:
            self._release(items, give_up=True)
        ahead = (position or 0) - self._position
        if 0 < ahead <= self._samples(self._limits.max_gap_ms):
            self._lose(self._position + ahead, source, items)
        return items

    def _hold(self, record: Audio, samples: Samples, source: Source) -> None:
        before = self._held.get(record.position)
        known = len(before.samples) if before is not None else 0
        self.duplicates += min(known, len(samples))
        if len(samples) <= known:
            return
        if before is None:
            heapq.heappush(self._waiting, record.position)
        self._held_samples += len(samples) - known
        self._held[record.position] = _Held(record.sequence, samples, source)

    def _release(self, items: list[Item], give_up: bool = False) -> None:
        """Append held audio as far as it connects; with `give_up`, jump to the earliest piece first."""
        while self._held:
            position = self._waiting[0]
            held = self._held[position]
            if position > self._position:
                if not give_up and held.sequence != self._sequence + 1:
                    return
                self._lose(position, self._source, items)
                give_up = False
            heapq.heappop(self._waiting)
            del self._held[position]
            self._held_samples -= len(held.samples)
            self._append(position, held, items)

    def _append(self, position: int, piece: _Held, items: list[Item]) -> None:
        known = self._position - position
        if known >= len(piece.samples):
            self.duplicates += len(piece.samples)
            return
        self.duplicates += known
        self._sequence = max(self._sequence, piece.sequence)
        self._position = position + len(piece.samples)
        self._emit(self._resampler.process(piece.samples[known:]), self._source, items)

    def _lose(self, position: int, source: Source, items: list[Item]) -> None:
        """The samples from the expected position to `position` are given up."""
        start, end = self.time, self._ms(position)
        missing = position - self._position
        self.gap_ms += end - start
        if end - start <= self._limits.gap_fill_ms:
            items.append(Loss(self._produced, start, end, source))
            silence = np.zeros(missing, dtype=np.float32)
            self._position = position
            self._emit(self._resampler.process(silence), source, items)
        else:
            self._close("gap", source, items, gap_end=end)
            self._position = position

    def _close(
        self, reason: BoundaryReason, source: Source, items: list[Item], flush_id: str = "", gap_end: int = 0
    ) -> None:
        self._emit(self._resampler.flush(), source, items)
        items.append(Boundary(reason, self.time, source, flush_id, gap_end, self.gap_ms))
        self._produced = 0

    def _emit(self, samples: Samples, source: Source, items: list[Item]) -> None:
        if len(samples):
            self._produced += len(samples)
            items.append(Speech(samples, source))

    def _samples(self, ms: int) -> int:
        return ms * self.sample_rate // 1000

    def _ms(self, position: int) -> int:
        return position * 1000 // self.sample_rate
