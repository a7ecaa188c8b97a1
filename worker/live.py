"""One stream from its first record until its last event is told."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from wire.records import Options, Start
from worker.batching.feed import Feed, FeedState
from worker.batching.scheduler import Scheduler
from worker.delivery.table import CheckpointRef, EndedRow, Row
from worker.engine.interface import EngineInfo, Mode, SlotState, Tokens
from worker.settings import StreamSettings
from worker.stream.pcm import sample_width
from worker.stream.segment import Loss, Segment, Source
from worker.stream.session import Item, Session, SessionLimits, Speech
from worker.transcript.transcriber import Endpointing, Identity, Told, Transcriber

if TYPE_CHECKING:
    from worker.state.checkpoint import Checkpoint


class Owner(Protocol):
    """What a stream asks of whoever reads its records."""

    number: int
    next_offset: int

    def relies_on(self, live: "LiveStream", checkpoint: CheckpointRef) -> bool:
        """Whether the next commit names this checkpoint."""

    def heard(self, live: "LiveStream", tokens: Tokens, last: bool) -> None:
        """Take what a step gave for the stream."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What all streams of a worker share."""

    settings: StreamSettings
    mode: Mode
    engine: EngineInfo
    scheduler: Scheduler

    def resolved(self, start: Start) -> Start:
        """`start` with every option filled in, so that it says the same under other defaults."""
        settings, options = self.settings, start.options
        return replace(
            start,
            language=start.language or settings.language,
            options=Options(
                look_ahead=self.mode.look_ahead if options.look_ahead is None else options.look_ahead,
                endpoint_ms=options.endpoint_ms or settings.endpoint_ms,
                max_utterance_ms=options.max_utterance_ms or settings.max_utterance_ms,
                idle_ms=options.idle_ms or settings.idle_ms,
                decoder=options.decoder or self.mode.decoder,  # type: ignore[arg-type]
                partials=settings.partials if options.partials is None else options.partials,
            ),
        )

    def mode_of(self, start: Start) -> Mode:
        """The mode of a resolved start; the deployment's if the model is another now and has no such mode."""
        look_ahead, decoder = start.options.look_ahead, start.options.decoder
        if look_ahead not in self.engine.look_aheads or decoder not in self.engine.decoders:
            return self.mode
        assert look_ahead is not None
        assert decoder is not None
        return Mode(look_ahead, decoder)

    def session(self, start: Start, nonce: str | None, began: Source, limits: SessionLimits | None = None) -> Session:
        """`limits`: those that the stream began with, if that was not now."""
        rate = self.engine.geometry.sample_rate
        return Session(start.encoding, start.sample_rate, nonce, limits or self.limits, began, rate)

    def restored(self, checkpoint: "Checkpoint", limits: SessionLimits) -> Session:
        return Session.restore(checkpoint.host["session"], limits, self.engine.geometry.sample_rate)

    @property
    def limits(self) -> SessionLimits:
        settings = self.settings
        return SessionLimits(settings.reorder_ms, settings.gap_fill_ms, settings.max_gap_ms)


@dataclass
class _Trial:
    """Reads for a stream that is only tried out."""

    number: int = 0
    next_offset: int = 0

    def relies_on(self, live: "LiveStream", checkpoint: CheckpointRef) -> bool:
        return False

    def heard(self, live: "LiveStream", tokens: Tokens, last: bool) -> None:
        pass


def try_out(row: Row, checkpoint: "Checkpoint", deployment: Deployment) -> None:
    """Make the stream from its checkpoint, beside the worker's real ones. Raises whatever that raises."""
    alone = replace(deployment, scheduler=Scheduler(deployment.engine.geometry, 1, 1, 1))
    LiveStream(_Trial(), row, alone, alone.restored(checkpoint, row.limits), checkpoint)


@dataclass(frozen=True, slots=True)
class _Reached:
    """How far a stream is, in stream time: what waits for the engine lies between."""

    heard_ms: int
    received_ms: int


class LiveStream:
    """The parts of one stream, and what the stream table says of it.

    `row` is as of the last `told_row`; `retired`: it takes no more records, its last events are still to come.
    """

    def __init__(
        self,
        partition: Owner,
        row: Row,
        deployment: Deployment,
        session: Session,
        checkpoint: "Checkpoint | None" = None,
    ) -> None:
        start = row.start
        engine = deployment.engine
        mode = deployment.mode_of(start)
        identity = Identity(
            stream=row.stream,
            partition=partition.number,
            first_offset=row.first_offset,
            model=engine.model_id,
            call_id=start.call_id,
            channel=start.channel,
            language=start.language,
            metadata=start.metadata,
        )
        options = start.options
        defaults = deployment.settings
        endpointing = Endpointing(
            silence_ms=options.endpoint_ms or defaults.endpoint_ms,
            max_utterance_ms=options.max_utterance_ms or defaults.max_utterance_ms,
            partials=bool(options.partials),
        )
        self.partition = partition
        self.row = row
        self.session = session
        self.transcriber = Transcriber(
            identity, endpointing, engine.pieces, engine.geometry, mode.look_ahead, row.published
        )
        self.idle_s = (options.idle_ms or defaults.idle_ms) / 1000
        self.touched = time.monotonic()
        self.retired = False
        self.segments: deque[Segment] = deque([Segment(origin=0 if row.base is None else session.time)])
        self._geometry = engine.geometry
        self._model = engine.model_id
        self._scheduler = deployment.scheduler
        self._heard = 0  # samples of the first segment that the engine has taken in
        self._received = 0  # samples of the last segment
        self.last_offset = row.first_offset  # of the record that ended the stream
        if checkpoint is None:
            if row.base is not None:  # what was counted before is not counted again
                counted = {"markers": row.base.told.markers, "gaps": row.base.told.gaps}
                self.transcriber.restore(self.transcriber.state() | counted)
            self.feed: Feed = self._scheduler.admit(mode, self)
        else:
            host = checkpoint.host
            self.transcriber.restore(host["transcriber"])
            self.segments = deque(Segment.restore(state) for state in host["segments"])
            self._heard, self._received = host["heard"], host["received"]
            self.feed = self._scheduler.admit(mode, self, checkpoint.feed, checkpoint.slot)
        self._resumes = self._snapshot = self._reached

    @property
    def resume_offset(self) -> int:
        """The first record that a restart needs once the row is committed."""
        return self.row.resumes

    @property
    def replay_ms(self) -> int:
        """Stream time that a restart would have to compute again."""
        return self._reached.heard_ms - self._resumes.heard_ms

    @property
    def unsaved(self) -> bool:
        """Whether a restart would have to read audio again."""
        return self.session.time > self._resumes.received_ms

    @property
    def _reached(self) -> "_Reached":
        heard = self.session.time
        if self.segments:
            heard = self.segments[0].origin + self._heard * 1000 // self._geometry.sample_rate
        return _Reached(heard, self.session.time)

    def apply(self, items: Sequence[Item]) -> None:
        """Hand what a record gave to the engine, and note where it came from."""
        for item in items:
            if isinstance(item, Speech):
                self._received += len(item.samples)
                self.segments[-1].mark(self._received, item.source)
                self._scheduler.push(self.feed, item.samples)
            elif isinstance(item, Loss):
                self.segments[-1].losses.append(item)
            else:
                self.segments[-1].boundary = item
                if item.ends_stream:
                    self.last_offset = max(item.source.offset, (self.row.idle_at or 0) - 1)
                else:
                    self.segments.append(Segment(origin=item.resumes))
                    self._received = 0
                self._scheduler.close(self.feed, item.ends_stream)

    def end_idle(self, offset: int) -> None:
        """The clock ends the stream after the records before `offset`; the row says so from its next commit on."""
        self.row = replace(self.row, idle_at=offset)
        self.apply(self.session.idle())

    def join(self, partition: Owner, began: float) -> None:
        """The stream was read by itself and has caught up: from here on its partition reads for it. It is as old as
        it was before it waited."""
        self.partition = partition
        self.feed.began = began
        self.touched = time.monotonic()

    def hear(self, tokens: Tokens, last: bool) -> list[Told]:
        """The events of what a step gave; `last`: it ended the first segment. No segment left: all is told."""
        segment = self.segments[0]
        told = self.transcriber.hear(tokens, segment)
        if tokens.heard:
            # what lies past the last chunk is heard when the next is
            frame = tokens.heard - 1 + self._geometry.recompute[self.feed.mode.look_ahead]
            self._heard = frame * self._geometry.frame_samples + self._geometry.half_window
        if last:
            told += self.transcriber.finish(segment)
            self.segments.popleft()
            self._heard = 0
        return told

    def ended_row(self) -> EndedRow:
        """The row once all is told; to be asked for when the stream takes no more records."""
        row, session = self.row, self.session
        width = sample_width(session.encoding)
        flushes = tuple(session.flushes)
        return EndedRow(row.stream, row.first_offset, row.nonce, self.last_offset, session.position, width, flushes)

    def told_row(self) -> Row:
        """The row as of now."""
        self.row = replace(self.row, published=self.transcriber.progress, model=self._model)
        return self.row

    def oldest_unheard(self) -> int | None:
        """Kafka timestamp of the oldest record with audio that the engine has not taken in."""
        for index, segment in enumerate(self.segments):
            source = segment.oldest_after(self._heard if index == 0 else 0)
            if source is not None:
                return source.timestamp
        return None

    def snapshot(self, slot: SlotState | None, feed: FeedState) -> "Checkpoint":
        """All of the stream at this moment, with the partition's records read so far."""
        from worker.state.checkpoint import Checkpoint

        host = {
            "session": self.session.state(),
            "transcriber": self.transcriber.state(),
            "segments": [segment.state() for segment in self.segments],
            "heard": self._heard,
            "received": self._received,
        }
        self._snapshot = self._reached
        return Checkpoint(self.row.stream, self.row.first_offset, self.partition.next_offset, host, slot, feed)

    def saved(self, key: str, offset: int) -> None:
        """The last snapshot is durable under this key: the next commit relies on it, if the stream still needs one."""
        reference = CheckpointRef(key, offset)
        if self.partition.relies_on(self, reference):
            self.row = replace(self.row, checkpoint=reference)
            self._resumes = self._snapshot
