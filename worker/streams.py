"""The streams of one partition by name: which one a record belongs to, when one begins and when it takes no more."""

import logging
import time

from wire.fields import WireError
from wire.records import Audio, End, Flush, Record, Start
from worker.backlog import RecordAudio
from worker.delivery.table import NO_NONCE, EndedRow, Row, Table
from worker.live import Deployment, LiveStream, Owner
from worker.past import EndedStreams
from worker.stream.segment import Source
from worker.stream.session import Session
from worker.telemetry.logs import about
from worker.telemetry.metrics import Metrics
from worker.transcript.transcriber import Progress

log = logging.getLogger(__name__)


class Streams:
    """`open`: those that take records. `live`: those and the ones whose last events are not told yet.

    `changed`: live streams of which the stream table does not know the latest; the owner clears it. `audio`: how much
    a record holds.
    """

    def __init__(self, owner: Owner, table: Table, deployment: Deployment, metrics: Metrics) -> None:
        self.open: dict[str, LiveStream] = {}
        self.live: set[LiveStream] = set()
        self.changed: set[LiveStream] = set()
        self.ended = EndedStreams(owner.number, table)
        self.audio = RecordAudio()
        self.deployment = deployment
        self._owner = owner
        self._metrics = metrics

    def route(self, stream: str, record: Record, source: Source, reader: Owner | None = None) -> None:
        """Hand a record to its stream, or begin one. Raises WireError if the record belongs to none.

        `reader`: who reads for the stream, if not the partition itself.
        """
        live = self.open.get(stream)
        if isinstance(record, Audio):
            if live is None:
                self._audio_without_start(stream, record, source, reader)
                return
            self._touch(live, record.nonce)
            self._measure(live.session, record)
            duplicates = live.session.duplicates
            live.apply(live.session.audio(record, source))
            if live.session.duplicates != duplicates:
                self._metrics.duplicates.inc()
        elif isinstance(record, Start):
            self._start(stream, live, record, source, reader)
        elif live is None:
            self._control_without_stream(stream, record)
        else:
            self._touch(live, record.nonce)
            if isinstance(record, Flush):
                items = live.session.flush(record, source)
                live.apply(items)
                if not items:
                    self._metrics.duplicates.inc()
            else:
                live.apply(live.session.end(record, source))
                self.retire(live)

    def open_stream(self, row: Row, session: Session, reader: Owner | None = None) -> LiveStream:
        """A stream from its first record on."""
        live = LiveStream(reader or self._owner, row, self.deployment, session)
        self.open[row.stream] = live
        self.add(live)
        self.ended.forget(row.stream, row.first_offset)
        return live

    def add(self, live: LiveStream) -> None:
        """A stream that has events to tell; it may take records only later."""
        self.live.add(live)
        self.changed.add(live)

    def take_over(self, live: LiveStream, source: Source) -> None:
        """`live` is the stream of its name from here on; its start ended the one before."""
        self.restart(live.row.stream, source)
        self.open[live.row.stream] = live
        self.ended.forget(live.row.stream, live.row.first_offset)

    def restart(self, stream: str, source: Source) -> None:
        """End the stream of this name, if there is one, as another start does."""
        before = self.open.get(stream)
        if before is not None:
            before.apply(before.session.restarted(source))
            self.retire(before)

    def end_idle(self, live: LiveStream, offset: int) -> None:
        """The clock ends a stream after the records before `offset`."""
        live.end_idle(offset)
        self.changed.add(live)
        self.retire(live)

    def retire(self, live: LiveStream) -> None:
        """The stream takes no more records; its last events are still to come."""
        del self.open[live.row.stream]
        live.retired = True
        self.ended.add(live.ended_row())

    def complete(self, live: LiveStream) -> EndedRow:
        """All of the stream is told."""
        self.live.discard(live)
        self.changed.discard(live)
        row = live.ended_row()
        log.debug("the stream has ended", extra=about(self._owner.number, row.stream))
        self.ended.published(row)
        return row

    def park(self, stream: str) -> list[Row]:
        """Forget the streams of this name, as they are; returns what the table says of them."""
        lives = [live for live in self.live if live.row.stream == stream]
        for live in lives:
            self.deployment.scheduler.drop(live.feed)
            self.live.discard(live)
            self.changed.discard(live)
        self.open.pop(stream, None)
        return [live.told_row() for live in lives]

    def drop(self) -> None:
        """Forget all streams."""
        for live in self.live:
            self.deployment.scheduler.drop(live.feed)
        self.live.clear()
        self.open.clear()

    def _measure(self, session: Session, record: Audio) -> None:
        self.audio.add(len(record.payload) / session.byte_rate)

    def _touch(self, live: LiveStream, nonce: str | None) -> None:
        if not live.session.accepts_nonce(nonce):
            raise WireError("foreign_nonce", f"nonce {nonce!r} is not that of the stream's start", "nonce")
        live.touched = time.monotonic()

    def _start(self, stream: str, live: LiveStream | None, record: Start, source: Source, reader: Owner | None) -> None:
        if live is not None and live.session.start_again(record):
            live.touched = time.monotonic()
            self._metrics.duplicates.inc()
            return
        ended = self.ended.get(stream)
        if ended is not None and ended.nonce == record.nonce:
            self._metrics.duplicates.inc()
            return
        self._check_options(record)
        self.restart(stream, source)
        session = self.deployment.session(record, record.nonce, source)
        self._begin(stream, record, record.nonce, source, session, reader)

    def _audio_without_start(self, stream: str, record: Audio, source: Source, reader: Owner | None) -> None:
        """A new stream with the deployment's defaults, unless the start was missed or the stream is over."""
        ended = self.ended.get(stream)
        if ended is not None and record.nonce in (None, ended.nonce):
            # without a nonce it may be of a new stream whose start was lost
            if record.nonce is not None and record.position + len(record.payload) // ended.width <= ended.position:
                self._metrics.duplicates.inc()
                return
            raise WireError("after_end", "audio: the stream has ended and no new start came since")
        if record.nonce is not None:
            raise WireError(
                "not_started", "audio carries the nonce of a start that did not come or was rejected", "nonce"
            )
        defaults = self.deployment.settings
        start = Start(NO_NONCE, defaults.encoding, defaults.sample_rate)
        session = self.deployment.session(start, None, source)
        items = session.audio(record, source)  # first: a record that is rejected begins no stream
        self._measure(session, record)
        self._begin(stream, start, None, source, session, reader).apply(items)

    def _control_without_stream(self, stream: str, record: Flush | End) -> None:
        ended = self.ended.get(stream)
        name = "end" if isinstance(record, End) else "flush"
        if ended is not None:
            if isinstance(record, End) or (record.id, record.position) in ended.flushes:
                self._metrics.duplicates.inc()
                return
            raise WireError("after_end", f"{name}: the stream has ended and no new start came since")
        raise WireError("not_started", f"{name}: the stream has sent neither a start nor audio")

    def _check_options(self, start: Start) -> None:
        options, engine = start.options, self.deployment.engine
        if options.look_ahead is not None and options.look_ahead not in engine.look_aheads:
            raise WireError(
                "look_ahead_not_supported",
                f"options.look_ahead {options.look_ahead}: the model has {', '.join(map(str, engine.look_aheads))}",
                "options.look_ahead",
            )
        if options.decoder is not None and options.decoder not in engine.decoders:
            raise WireError(
                "decoder_not_supported",
                f"options.decoder {options.decoder!r}: the model has {', '.join(engine.decoders)}",
                "options.decoder",
            )

    def _begin(
        self, stream: str, start: Start, nonce: str | None, source: Source, session: Session, reader: Owner | None
    ) -> LiveStream:
        """A stream that was not there before."""
        start = self.deployment.resolved(start)
        limits, model = self.deployment.limits, self.deployment.engine.model_id
        row = Row(stream, source.offset, nonce, start, limits, Progress(), model)
        self._metrics.started.inc()
        log.debug("the stream begins at offset %d", source.offset, extra=about(self._owner.number, stream))
        return self.open_stream(row, session, reader)
