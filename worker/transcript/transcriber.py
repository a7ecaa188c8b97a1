"""One stream's tokens to its sequence of events.

What ends an utterance (silence, length) is decided frame by frame, so the events do not depend on how the audio
was cut into steps. An endpoint touches neither encoder nor decoder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wire.events import Final, Gap, Head, Marker, Partial, StreamEnd, Utterance, UtteranceReason
from wire.records import Metadata
from wire.topics import event_id
from worker.engine.interface import Geometry, Tokens
from worker.stream.segment import Segment, Source
from worker.transcript.words import Hypothesis, OpenWord

# An utterance of so many tokens stays well below the 1 MB that Kafka takes in one record, whatever length and
# silence a stream asked for.
MAX_TOKENS = 5_000


@dataclass(frozen=True, slots=True)
class Identity:
    """What every event of one stream says of it."""

    stream: str
    partition: int
    first_offset: int
    model: str
    call_id: str | None
    channel: str | None
    language: str | None
    metadata: Metadata


@dataclass(frozen=True, slots=True)
class Endpointing:
    """When an utterance ends; in ms of stream time."""

    silence_ms: int
    max_utterance_ms: int
    partials: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """What a stream has told so far; the stream table keeps what was published."""

    number: int = 0  # of the next event
    time: int = 0  # ms of stream time: the end of the last word told
    markers: int = 0
    gaps: int = 0
    utterances: int = 0
    words: int = 0

    def after(self, event: Final) -> "Progress":
        """The progress once `event` is told, too."""
        number = self.number + 1
        if isinstance(event, Utterance):
            words = self.words + len(event.words)
            return replace(self, number=number, time=event.end, utterances=self.utterances + 1, words=words)
        if isinstance(event, Marker):
            return replace(self, number=number, markers=self.markers + 1)
        if isinstance(event, Gap):
            return replace(self, number=number, gaps=self.gaps + 1)
        return replace(self, number=number)


@dataclass(frozen=True, slots=True)
class Told:
    """An event and the Kafka timestamp of the record that completed its chunk.

    spoken: of an utterance, the Kafka timestamp of the record that held the end of its last word.
    """

    event: Final | Partial
    timestamp: int
    spoken: int | None = None


class Transcriber:
    """Consumes a stream's segments in order: `hear` for each step's tokens, `finish` at the segment's end.

    `published`: what an earlier run told of the same stream. None of it is told again, whatever tokens this run
    hears: markers and gaps, which the records fix, go by their count, words by their end. The words that utterances
    tell end later and later (an endpoint never falls within a frame), so that the end of the last one says it all.
    """

    def __init__(
        self,
        identity: Identity,
        endpointing: Endpointing,
        pieces: tuple[str, ...],
        geometry: Geometry,
        look_ahead: int,
        published: Progress = Progress(),
    ) -> None:
        self._identity = identity
        self._partials = endpointing.partials
        self._geometry = geometry
        self._look_ahead = look_ahead
        self._frame_ms = geometry.frame_ms
        self._silence = -(-endpointing.silence_ms // self._frame_ms)  # frames, rounded up
        self._longest = max(1, endpointing.max_utterance_ms // self._frame_ms)
        self._hypothesis = Hypothesis(pieces)
        self._published = published
        self._progress = published
        self._markers = 0  # since the stream's first record, told or not
        self._gaps = 0
        self._partial = ""

    @property
    def progress(self) -> Progress:
        """What was told, by earlier runs too, as of now."""
        return self._progress

    def state(self) -> dict[str, Any]:
        """What events to come depend on besides `progress`; plain values."""
        return {
            "hypothesis": self._hypothesis.state(),
            "partial": self._partial,
            "markers": self._markers,
            "gaps": self._gaps,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`. `published` counts from the stream's first record, not from the capture."""
        self._hypothesis.restore(state["hypothesis"])
        self._partial = state["partial"]
        self._markers = state["markers"]
        self._gaps = state["gaps"]

    def hear(self, tokens: Tokens, segment: Segment) -> list[Told]:
        """What a step added: finals that are due, then a partial if the hypothesis changed."""
        told: list[Told] = []
        for token, frame, confidence in zip(tokens.ids, tokens.frames, tokens.confidences, strict=True):
            told.extend(self._due(frame, segment))
            if self._full(frame, segment):
                # the word this token continues is not complete, it opens the next utterance
                growing = not self._hypothesis.begins_word(token) and len(self._hypothesis.words) > 1
                told.extend(self._utter("max_length", segment, self._completing(frame, segment), growing))
                told.extend(self._lost(frame, segment))
            self._hypothesis.add(token, frame, confidence)
        told.extend(self._due(tokens.heard, segment))
        told.extend(self._revise(tokens.heard, segment))
        self._forget(tokens.heard, segment)
        return told

    def finish(self, segment: Segment) -> list[Told]:
        """The events of the segment's end; all its tokens were heard."""
        boundary = segment.boundary
        if boundary is None:
            raise ValueError("the segment has not ended")
        source = boundary.source
        told = [*self._utter(boundary.reason, segment, source), *self._lost(None, segment)]
        if boundary.reason == "flush":
            self._markers += 1
            if self._markers > self._published.markers:
                marker = Marker(self._head(source, source), boundary.flush_id, boundary.time)
                told.append(self._tell(marker, source))
        elif boundary.reason == "gap":
            told.extend(self._gap(source, boundary.time, boundary.gap_end))
        else:
            head, totals = self._head(source, source), self._progress
            end = StreamEnd(head, boundary.reason, boundary.time, totals.utterances, totals.words, boundary.gap_ms)
            told.append(self._tell(end, source))
        return told

    def _full(self, frame: int, segment: Segment) -> bool:
        """Whether the utterance must end before a token of this frame."""
        words = self._hypothesis.words
        if not words or words[-1].end > frame:
            return False  # two utterances would share the frame
        if segment.boundary and segment.origin + frame * self._frame_ms >= segment.boundary.time:
            return False  # past the audio, where all words end with it
        return frame - words[0].start >= self._longest or self._hypothesis.tokens >= MAX_TOKENS

    def _due(self, frame: int, segment: Segment) -> Iterator[Told]:
        """Everything decided by the frames before `frame`, in order.

        A loss within an utterance is told after it: the partials bear the number that the utterance will have.
        """
        words = self._hypothesis.words
        if words:
            silent = words[-1].end + self._silence
            if silent > frame:
                return
            yield from self._utter("silence", segment, self._completing(silent - 1, segment))
        yield from self._lost(frame, segment)

    def _lost(self, frame: int | None, segment: Segment) -> Iterator[Told]:
        """The losses that the frames before `frame` (all, if None) have passed."""
        while segment.losses:
            loss = segment.losses[0]
            if frame is not None and loss.sample // self._geometry.frame_samples >= frame:
                return
            segment.losses.popleft()
            yield from self._gap(loss.source, loss.start, loss.end)

    def _gap(self, source: Source, start: int, end: int) -> Iterator[Told]:
        self._gaps += 1
        if self._gaps > self._published.gaps:
            yield self._tell(Gap(self._head(source, source), start, end), source)

    def _utter(
        self, reason: UtteranceReason, segment: Segment, last: Source, keep_last: bool = False
    ) -> Iterator[Told]:
        taken = self._hypothesis.take(keep_last)
        taken = taken[self._published_words(taken, segment) :]
        self._partial = ""
        if not taken:
            return
        limit = segment.boundary.time if segment.boundary else None
        words = tuple(word.close(segment.origin, self._frame_ms, self._progress.time, limit) for word in taken)
        first = segment.holding(taken[0].start * self._geometry.frame_samples)
        text = " ".join(word.text for word in words)
        spoken = segment.holding(taken[-1].end * self._geometry.frame_samples - 1)
        utterance = Utterance(self._head(first, last), text, words, words[0].start, words[-1].end, reason)
        yield replace(self._tell(utterance, last), spoken=spoken.timestamp)

    def _revise(self, heard: int, segment: Segment) -> Iterator[Told]:
        words = self._hypothesis.words
        known = self._published_words(words, segment)
        text = self._hypothesis.text(known)
        if not self._partials or not text or text == self._partial:
            return
        self._partial = text
        first = segment.holding(words[known].start * self._geometry.frame_samples)
        last = self._completing(heard - 1, segment)
        start = max(self._progress.time, segment.origin + words[known].start * self._frame_ms)
        end = segment.origin + words[-1].end * self._frame_ms
        partial = Partial(self._head(first, last), text, self._hypothesis.stable(known), start, end)
        yield Told(partial, last.timestamp)

    def _published_words(self, words: Sequence[OpenWord], segment: Segment) -> int:
        """How many of the words, from the first, an earlier run has told."""
        limit = segment.boundary.time if segment.boundary else None
        known = 0
        for word in words:
            end = segment.origin + word.end * self._frame_ms
            if (end if limit is None else min(end, limit)) > self._published.time:
                break
            known += 1
        return known

    def _tell(self, event: Final, last: Source) -> Told:
        self._progress = self._progress.after(event)
        return Told(event, last.timestamp)

    def _completing(self, frame: int, segment: Segment) -> Source:
        """The record that completed the chunk of encoder frame `frame`."""
        chunk = frame // self._geometry.chunk_frames(self._look_ahead)
        return segment.completing(self._geometry.chunk_end(self._look_ahead, chunk))

    def _forget(self, heard: int, segment: Segment) -> None:
        words = self._hypothesis.words
        first = words[0].start if words else heard
        # a frame is heard before all of its own samples have come
        segment.forget((first - 1) * self._geometry.frame_samples)

    def _head(self, first: Source, last: Source) -> Head:
        """Of the next final, or of a partial of it."""
        who, number = self._identity, self._progress.number
        return Head(
            id=event_id(who.stream, who.partition, who.first_offset, number),
            stream=who.stream,
            number=number,
            model=who.model,
            offsets=(first.offset, last.offset),
            call_id=who.call_id,
            channel=who.channel,
            language=who.language,
            metadata=who.metadata,
        )
