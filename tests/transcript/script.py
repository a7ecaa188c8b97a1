"""A segment as the worker sees it: records, losses and tokens that come step by step."""

from dataclasses import dataclass, field

from wire import decode_final, decode_partial, encode_final, encode_partial
from wire.events import Partial
from worker.engine.interface import Geometry, Tokens
from worker.stream.segment import Boundary, Loss, Segment, Source
from worker.transcript.transcriber import Endpointing, Identity, Progress, Transcriber

PIECES = ("▁", "▁a", "▁b", "c", ",", "▁d")
ID = {piece: number for number, piece in enumerate(PIECES)}
LOOK_AHEAD = 1
GEOMETRY = Geometry(sample_rate=16000, hop=160, half_window=200, subsampling=8, recompute={0: 0, 1: 0, 6: 0})
REGULAR = Geometry(sample_rate=16000, hop=160, half_window=200, subsampling=8, recompute={1: 3})
IDENTITY = Identity("s/0", 3, 100, "m", "call", "agent", "en", {"x": 1})
NOTHING = Progress()
FRAME = GEOMETRY.frame_samples
FRAME_MS = 80


@dataclass
class Script:
    """One segment: tokens (piece, frame, confidence), records (samples so far), losses (sample, start, end)."""

    frames: int
    tokens: list[tuple[str, int, float]] = field(default_factory=list)
    records: list[int] = field(default_factory=list)
    losses: list[tuple[int, int, int]] = field(default_factory=list)
    reason: str = "flush"
    origin: int = 0
    first_offset: int = 100

    @property
    def samples(self):
        """Audio of that many frames whose last chunk is not whole."""
        return (self.frames - 1) * FRAME + 100

    @property
    def time(self):
        return self.origin + self.samples // 16


def source(offset):
    return Source(offset, 1000 + 7 * offset)


def transcriber(silence_ms=800, max_utterance_ms=30_000, partials=True, geometry=GEOMETRY, published=NOTHING):
    endpointing = Endpointing(silence_ms, max_utterance_ms, partials)
    return Transcriber(IDENTITY, endpointing, PIECES, geometry, LOOK_AHEAD, published)


def tell(listener, script, cuts=(), early=0, geometry=GEOMETRY):
    """Play a segment in steps that end at the frames `cuts`; audio comes `early` samples sooner than it must.

    Every event is checked to survive the wire. Returns what was told, one list a step.
    """
    segment = Segment(origin=script.origin)
    records = [*[r for r in sorted(script.records) if r < script.samples], script.samples]
    arrivals = [(end, script.first_offset + number) for number, end in enumerate(records)]
    losses = sorted(script.losses)
    steps, done = [], 0
    for heard in [*sorted({c for c in cuts if c < script.frames}), script.frames]:
        last = heard == script.frames
        known = script.samples if last else (heard - 1 + geometry.recompute[LOOK_AHEAD]) * FRAME + 200 + early
        while arrivals and (not segment._ends or segment._ends[-1] < known):
            end, offset = arrivals.pop(0)
            while losses and losses[0][0] < end:  # a loss becomes known with the record behind it
                sample, start, stop = losses.pop(0)
                segment.losses.append(Loss(sample, start, stop, source(offset)))
            segment.mark(end, source(offset))
        if last:
            segment.boundary = Boundary(
                script.reason,
                script.time,
                source(script.first_offset + len(records)),
                flush_id="f" if script.reason == "flush" else "",
                gap_end=script.time + 5000 if script.reason == "gap" else 0,
                gap_ms=sum(stop - start for _, start, stop in script.losses),
            )
        said = [token for token in script.tokens if done <= token[1] < heard]
        tokens = Tokens([ID[t[0]] for t in said], [t[1] for t in said], [t[2] for t in said], heard)
        told = listener.hear(tokens, segment)
        if last:
            told += listener.finish(segment)
        for item in told:
            over_the_wire(item.event)
        steps.append(told)
        done = heard
    return steps


def over_the_wire(event):
    if isinstance(event, Partial):
        assert decode_partial(encode_partial(event)) == event
    else:
        assert decode_final(encode_final(event)) == event


def finals(steps):
    return [item for told in steps for item in told if not isinstance(item.event, Partial)]


def partials(steps):
    return [item.event for told in steps for item in told if isinstance(item.event, Partial)]


def events(steps):
    return [item.event for item in finals(steps)]
