"""One stream's tokens to its sequence of events.

What ends an utterance (silence, length) is decided frame by frame, so the events do not depend on how the audio
was cut into steps. An endpoint touches neither encoder nor decoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from wire.events import Final, Gap, Head, Marker, Partial, StreamEnd, Utterance, UtteranceReason
from wire.records import Metadata
from wire.topics import event_id
from worker.engine.interface import Geometry, Tokens
from worker.stream.segment import Segment, Source
from worker.transcript.words import Hypothesis

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
class Told:
    """An event and the Kafka timestamp of the record that completed its chunk."""

    event: Final | Partial
    timestamp: int


class Transcriber:
    """Consumes a stream's segments in order: `hear` for each step's tokens, `finish` at the segment's end."""

    def __init__(
        self,
        identity: Identity,
        endpointing: Endpointing,
        pieces: tuple[str, ...],
        geometry: Geometry,
        look_ahead: int,
    ) -> None:
        self._identity = identity
        self._partials = endpointing.partials
        self._geometry = geometry
        self._look_ahead = look_ahead
        self._frame_ms = geometry.frame_ms
        self._silence = -(-endpointing.silence_ms // self._frame_ms)  # frames, rounded up
        self._longest = max(1, endpointing.max_utterance_ms // self._frame_ms)
        self._hypothesis = Hypothesis(pieces)
        self._number = 0
        self._utterances = 0
        self._words = 0
        self._partial = ""

    def hear(self, tokens: Tokens, segment: Segment) -> list[Told]:
        """What a step added: finals that are due, then a partial if the hypothesis changed."""
        told: list[Told] = []
        for token, frame, confidence in zip(tokens.ids, tokens.frames, tokens.confidences, strict=True):
            told.extend(self._due(frame, segment))
            if self._full(frame):
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
            head = self._head(source, source)
            told.append(Told(Marker(head, boundary.flush_id, boundary.time), source.timestamp))
        elif boundary.reason == "gap":
            head = self._head(source, source)
            told.append(Told(Gap(head, boundary.time, boundary.gap_end), source.timestamp))
        else:
            head = self._head(source, source)
            end = StreamEnd(head, boundary.reason, boundary.time, self._utterances, self._words, boundary.gap_ms)
            told.append(Told(end, source.timestamp))
        return told

    def _full(self, frame: int) -> bool:
        """Whether the utterance must end before a token of this frame."""
        words = self._hypothesis.words
        return bool(words) and (frame - words[0].start >= self._longest or self._hypothesis.tokens >= MAX_TOKENS)

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
            yield Told(Gap(self._head(loss.source, loss.source), loss.start, loss.end), loss.source.timestamp)

    def _utter(
        self, reason: UtteranceReason, segment: Segment, last: Source, keep_last: bool = False
    ) -> Iterator[Told]:
        taken = self._hypothesis.take(keep_last)
        self._partial = ""
        if not taken:
            return
        # the last frames reach past the segment's audio
        limit = segment.boundary.time if segment.boundary else None
        words = tuple(word.close(segment.origin, self._frame_ms, limit) for word in taken)
        first = segment.holding(taken[0].start * self._geometry.frame_samples)
        head = self._head(first, last)
        self._utterances += 1
        self._words += len(words)
        text = " ".join(word.text for word in words)
        yield Told(Utterance(head, text, words, words[0].start, words[-1].end, reason), last.timestamp)

    def _revise(self, heard: int, segment: Segment) -> Iterator[Told]:
        text = self._hypothesis.text
        if not self._partials or not text or text == self._partial:
            return
        self._partial = text
        words = self._hypothesis.words
        first = segment.holding(words[0].start * self._geometry.frame_samples)
        last = self._completing(heard - 1, segment)
        head = self._head(first, last, count=False)
        start = segment.origin + words[0].start * self._frame_ms
        end = segment.origin + words[-1].end * self._frame_ms
        yield Told(Partial(head, text, self._hypothesis.stable, start, end), last.timestamp)

    def _completing(self, frame: int, segment: Segment) -> Source:
        """The record that completed the chunk of encoder frame `frame`."""
        chunk = frame // self._geometry.chunk_frames(self._look_ahead)
        return segment.completing(self._geometry.chunk_end(self._look_ahead, chunk))

    def _forget(self, heard: int, segment: Segment) -> None:
        words = self._hypothesis.words
        first = words[0].start if words else heard
        # a frame is heard before all of its own samples have come
        segment.forget((first - 1) * self._geometry.frame_samples)

    def _head(self, first: Source, last: Source, count: bool = True) -> Head:
        who = self._identity
        number = self._number
        if count:
            self._number += 1
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
