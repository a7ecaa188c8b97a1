"""Two groups' outputs of the same audio, compared: what is lost, what is doubled, what differs.

Lost and doubled are judged by stream time: a millisecond that an utterance (or a gap) of the one covers and none of the
other's does is lost, however the events are numbered; one that two of them cover is doubled.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from tests.integration.disturbed import by_stream
from tests.integration.support import Out, Outputs, assert_same
from wire import Final, Gap, Marker, StreamEnd, Utterance

AROUND = 2  # events shown before and after the first difference

Span = tuple[int, int]


@dataclass
class Verdict:
    """Events by what is wrong with them; `first`: the first thing wrong, with what is around it."""

    compared: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0
    first: str | None = None
    where: tuple[int, tuple[int, int]] | None = None  # of `first`: partition and offsets of the audio topic

    @property
    def good(self) -> bool:
        return self.compared > 0 and not (self.lost or self.doubled or self.differing)

    def note(self, what: str, mine: Sequence[Out[Final]], theirs: Sequence[Out[Final]], at: Out[Final]) -> None:
        if self.first is not None:
            return
        number = at.event.head.number
        lines = [f"{what}: {at.event}"]
        for name, outs in (("disturbed", mine), ("undisturbed", theirs)):
            lines.append(f"{name}:")
            near = [out for out in outs if abs(out.event.head.number - number) <= AROUND]
            lines += [f"  {out.event}" for out in near]
        self.first = "\n".join(lines)
        self.where = (at.partition, at.event.head.offsets)


def compare(disturbed: Outputs, undisturbed: Outputs) -> Verdict:
    verdict = Verdict()
    mine, theirs = by_stream(disturbed.finals), by_stream(undisturbed.finals)
    for stream in sorted(mine.keys() | theirs.keys()):
        _stream(verdict, mine.get(stream, []), theirs.get(stream, []))
    _rejects(verdict, disturbed, undisturbed)
    return verdict


def _stream(verdict: Verdict, mine: list[Out[Final]], theirs: list[Out[Final]]) -> None:
    verdict.compared += len(theirs)
    blamed: set[str] = set()  # ids of events that are lost or doubled
    for lost in uncovered(theirs, mine):
        verdict.lost += 1
        blamed.add(lost.event.head.id)
        verdict.note("lost", mine, theirs, lost)
    for twice in repeated(mine):
        verdict.doubled += 1
        blamed.add(twice.event.head.id)
        verdict.note("doubled", mine, theirs, twice)
    here = {out.event.head.id: out for out in reversed(mine)}
    there = {out.event.head.id: out for out in theirs}
    for name in sorted((here.keys() | there.keys()) - blamed):
        if name in here and name in there and alike(here[name], there[name]):
            continue
        verdict.differing += 1
        verdict.note("differing", mine, theirs, here.get(name) or there[name])
    numbers = [out.event.head.number for out in mine]
    if numbers != sorted(numbers):
        verdict.differing += 1
        verdict.note("out of order", mine, theirs, mine[0])


def uncovered(wanted: Sequence[Out[Final]], given: Sequence[Out[Final]]) -> list[Out[Final]]:
    """Those of `wanted` of which `given` leaves a millisecond of stream time out."""
    spans: dict[Hashable, list[Span]] = {}
    for out in given:
        kind, span = _span(out.event)
        spans.setdefault(kind, []).append(lasting(span))
    missing = []
    for out in wanted:
        kind, span = _span(out.event)
        start, end = lasting(span)
        for first, last in sorted(spans.get(kind, ())):
            if first <= start < last:
                start = last
        if start < end:
            missing.append(out)
    return missing


def repeated(outs: Sequence[Out[Final]]) -> list[Out[Final]]:
    """Those that cover stream time which one before them covers, or bear its id."""
    spans: dict[Hashable, list[Span]] = {}
    ids: set[str] = set()
    found = []
    for out in outs:
        kind, (start, end) = _span(out.event)
        before = spans.setdefault(kind, [])
        # a word that a flush cut to nothing covers none of what begins at that moment
        over = any((start, end) == (first, last) or (start < last and first < end) for first, last in before)
        if out.event.head.id in ids or over:
            found.append(out)
        before.append((start, end))
        ids.add(out.event.head.id)
    return found


def lasting(span: Span) -> Span:
    """A millisecond at least."""
    start, end = span
    return start, max(end, start + 1)


def _span(event: Final) -> tuple[Hashable, Span]:
    """What kind of thing an event tells, and the stream time that it covers; a marker and an end are one of a kind."""
    if isinstance(event, Utterance):
        return "speech", (event.start, event.end)
    if isinstance(event, Gap):
        return "gap", (event.start, event.end)
    if isinstance(event, Marker):
        return ("marker", event.flush_id), (0, 1)
    assert isinstance(event, StreamEnd)
    return "end", (0, 1)


def alike(out: Out[Final], other: Out[Final]) -> bool:
    """Equal but for confidences, which may differ by 0.01."""
    try:
        assert_same(out.event, other.event)
    except AssertionError:
        return False
    return (out.key, out.partition, out.headers) == (other.key, other.partition, other.headers)


def _rejects(verdict: Verdict, disturbed: Outputs, undisturbed: Outputs) -> None:
    def table(outputs: Outputs) -> dict[tuple[int, int], Collection[object]]:
        return {(out.partition, int(out.headers["offset"])): (out.key, out.event) for out in outputs.rejected}

    mine, theirs = table(disturbed), table(undisturbed)
    times = Counter((out.partition, int(out.headers["offset"])) for out in disturbed.rejected)
    verdict.compared += len(theirs)
    lost = theirs.keys() - mine.keys()
    doubled = {place for place, count in times.items() if count > 1}
    differing = {place for place in mine if mine[place] != theirs.get(place)}
    verdict.lost += len(lost)
    verdict.doubled += len(doubled)
    verdict.differing += len(differing)
    wrong = sorted(lost | doubled | differing)
    if wrong and verdict.first is None:
        partition, offset = wrong[0]
        verdict.first = f"rejected: {mine.get(wrong[0])} {times[wrong[0]]} times, undisturbed: {theirs.get(wrong[0])}"
        verdict.where = (partition, (offset, offset))
