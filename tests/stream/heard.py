"""Plays records into a session, and sorts what comes out into segments."""

from dataclasses import dataclass, field

import numpy as np

from wire import Audio, End, Flush
from worker.stream.resample import Resampler
from worker.stream.segment import Boundary, Loss, Source
from worker.stream.session import Session, SessionLimits, Speech

LIMITS = SessionLimits(reorder_ms=1000, gap_fill_ms=500, max_gap_ms=60_000)
FIRST = Source(100, 5_000)  # of the record that began the stream
MS = 16  # samples a millisecond at 16 kHz


@dataclass
class Segment:
    samples: np.ndarray
    losses: list[Loss]
    boundary: Boundary | None


@dataclass
class Heard:
    """Plays records into a session and sorts what comes out."""

    session: Session
    items: list = field(default_factory=list)
    offset: int = FIRST.offset

    def source(self):
        self.offset += 1
        return Source(self.offset, 5_000 + 10 * self.offset)

    def play(self, *records):
        for record in records:
            method = {Audio: self.session.audio, Flush: self.session.flush, End: self.session.end}[type(record)]
            self.items += method(record, self.source())
        return self

    @property
    def segments(self):
        found, parts, losses = [], [], []
        for item in self.items:
            if isinstance(item, Speech):
                parts.append(item.samples)
            elif isinstance(item, Loss):
                losses.append(item)
            else:
                found.append(Segment(np.concatenate([*parts, np.zeros(0)]), losses, item))
                parts, losses = [], []
        return [*found, Segment(np.concatenate([*parts, np.zeros(0)]), losses, None)]

    @property
    def samples(self):
        return np.concatenate([segment.samples for segment in self.segments])

    @property
    def losses(self):
        return [(i.start, i.end) for i in self.items if isinstance(i, Loss)]

    @property
    def boundaries(self):
        return [i for i in self.items if isinstance(i, Boundary)]


def begin(rate=16000, encoding="pcm_s16le", limits=LIMITS, nonce="n"):
    return Heard(Session(encoding, rate, nonce, limits, FIRST))


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(-9000, 9000, count).astype("<i2")


def floats(pcm):
    return pcm.astype(np.float32) / np.float32(32768)


def converted(pcm, rate):
    resampler = Resampler(rate)
    return np.concatenate([resampler.process(floats(pcm)), resampler.flush()])


def piece(pcm, sequence, start, stop):
    return Audio(sequence, start, pcm[start:stop].tobytes())


def pieces(pcm, size):
    return [piece(pcm, i, start, start + size) for i, start in enumerate(range(0, len(pcm), size))]
