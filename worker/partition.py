"""One input partition: records in, events out, and what a commit of it says.

Everything of a partition happens on the event loop, in log order on the way in and in step order on the way back.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from wire.codec import decode_key, decode_record, reject
from wire.events import Gap, Marker, Partial, StreamEnd, Utterance
from wire.fields import WireError
from worker.delivery.ledger import Batch, Letter
from worker.delivery.outbox import Outbox
from worker.delivery.table import (
    PARTITION_KEY,
    CheckpointRef,
    EndedRow,
    Row,
    Table,
    encode_partition,
    encode_row,
    row_key,
)
from worker.engine.interface import Tokens
from worker.live import Deployment, LiveStream
from worker.parking import Parking
from worker.replay import Replay
from worker.settings import KafkaSettings
from worker.stream.segment import Source
from worker.streams import Streams
from worker.telemetry.logs import about
from worker.telemetry.metrics import Metrics
from worker.transcript.transcriber import Told

if TYPE_CHECKING:
    from worker.state.checkpoint import Checkpoint

log = logging.getLogger(__name__)

# Of an event, in metrics.
TYPES = {Utterance: "utterance", Marker: "marker", Gap: "gap", StreamEnd: "end", Partial: "partial"}


class Partition:
    """One assigned partition, going on from what the stream table says of it; `resume`: the first offset to read."""

    def __init__(
        self,
        number: int,
        resume: int,
        table: Table,
        checkpoints: Mapping[bytes, "Checkpoint"],
        deployment: Deployment,
        outbox: Outbox,
        kafka: KafkaSettings,
        metrics: Metrics,
    ) -> None:
        self.number = number
        self.next_offset = resume
        self.last_timestamp: int | None = None
        self.outbox = outbox
        self.wanted = outbox.wanted
        self._topic = kafka.streams_topic
        self._group = kafka.group
        self.dropped = False
        self._metrics = metrics
        self._stale = [Letter(self._topic, key, None) for key in table.stale]
        self._told: list[EndedRow] = []  # ends told since the last batch
        self._superseded: list[str] = []
        self._committed: tuple[int, int] | None = None
        self._stamp = table.stamp
        self._streams = Streams(self, table, deployment, metrics)
        self._replay = Replay(self, self._streams, table, checkpoints, metrics)
        self.parking = Parking(self, self._streams, self._replay, kafka.streams_topic, metrics)

    @property
    def resume_offset(self) -> int:
        """The first offset that a restart needs once all rows are committed.

        Streams of the table whose first record has not come by again lie at or after the next record.
        """
        needed = [live.resume_offset for live in self._streams.live]
        return min([self.next_offset, *needed, *self.parking.needs()])

    @property
    def open_streams(self) -> int:
        return len(self._streams.open)

    @property
    def live(self) -> Iterable[LiveStream]:
        """Streams that take records."""
        return list(self._streams.open.values())

    def accept(self, key: bytes | None, value: bytes | None, offset: int, timestamp: int) -> None:
        """Take the next record; what is wrong with it goes to the rejected topic."""
        again = offset < self._replay.until
        self.next_offset = offset + 1
        self.last_timestamp = timestamp
        if offset >= self._replay.until:
            self._stamp = timestamp
        self._metrics.records.inc()
        usable = None
        try:
            stream = decode_key(key)
            if stream in self.parking:
                self.parking.pass_over(stream)
                return  # read again when there is room
            usable = key
            again = self._replay.knows(stream, offset)
            if again:
                self._replay.take(stream, value, Source(offset, timestamp))
            else:
                self._streams.route(stream, decode_record(value), Source(offset, timestamp))
        except WireError as error:
            if not again:  # else it was rejected then
                self.reject(usable, value, offset, error)
        self._replay.apply_clock()

    def unreadable(self, offset: int, detail: str) -> None:
        """The record at `offset` lies in a batch that cannot be unpacked: reject it without its bytes."""
        self.next_offset = offset + 1
        self._metrics.records.inc()
        if offset >= self._replay.until:
            self._stamp = None
            self.reject(None, None, offset, WireError("codec_not_available", detail))
        self._replay.apply_clock()

    def reject(self, key: bytes | None, value: bytes | None, offset: int, error: WireError) -> None:
        """Send a record to the rejected topic; `key`: None if it is not usable."""
        self._metrics.rejected.labels(error.reason).inc()
        # not its text, which may quote the record
        log.debug("record %d rejected: %s", offset, error.reason, extra=about(self.number))
        self.outbox.rejected(key, offset, reject(value, error.reason, str(error)))

    def heard(self, live: LiveStream, tokens: Tokens, last: bool) -> None:
        """Take what a step gave for one stream."""
        if live not in self._streams.live:  # dropped while the step ran
            return
        told = live.hear(tokens, last)
        if told:
            self._count(told)
            self.outbox.told(live.row.stream, told)
            self._streams.changed.add(live)
        if last and not live.segments:
            self._told.append(self._streams.complete(live))
            if live.row.checkpoint is not None:
                self._superseded.append(live.row.checkpoint.key)

    def _count(self, told: Iterable[Told]) -> None:
        for item in told:
            event = item.event
            self._metrics.events.labels(TYPES[type(event)]).inc()
            if isinstance(event, Gap):
                self._metrics.gaps.inc((event.end - event.start) / 1000)
            elif isinstance(event, StreamEnd):
                self._metrics.ended.labels(event.reason).inc()

    def collect(self) -> Batch | None:
        """All that is new since the last batch, and the offset that it allows; None if nothing is new."""
        streams = self._streams
        resume, read = self.resume_offset, max(self.next_offset, self._replay.until)
        letters = self.outbox.take()
        rows = [*self._stale, *self.parking.rows()]  # first: a stream that is back since may have told more
        rows += [self._letter(live.told_row()) for live in streams.changed]
        rows += [self._letter(row) for row in self._told]
        rows += [Letter(self._topic, key, None) for key in streams.ended.tombstones(resume)]
        if not letters and not rows and self._committed == (resume, read):
            return None
        rows.append(Letter(self._topic, PARTITION_KEY, encode_partition(read, self._stamp, self._group)))
        streams.changed.clear()
        self._told.clear()
        self._stale.clear()
        self._committed = (resume, read)
        superseded, self._superseded = self._superseded, []
        return Batch(letters, rows, resume, superseded)

    def published(self) -> None:
        """The last batch is committed."""
        self.outbox.published()

    def relies_on(self, live: LiveStream, checkpoint: CheckpointRef) -> bool:
        """Whether the next commit will name this checkpoint; if not, it is superseded already."""
        if live not in self._streams.live or live.retired:
            self._superseded.append(checkpoint.key)
            return False
        if live.row.checkpoint is not None:
            self._superseded.append(live.row.checkpoint.key)
        self._streams.changed.add(live)
        return True

    def end_idle_streams(self) -> None:
        """End the streams that have had no record for long. Only called when the partition was read to its end."""
        if self.replaying:
            return
        now = time.monotonic()
        idle = [live for live in self._streams.open.values() if now - live.touched > live.idle_s]
        for live in idle:
            if live.partition is not self:
                continue  # it is being read again
            log.info("idle for %.0f s, ended", live.idle_s, extra=about(self.number, live.row.stream))
            self._streams.end_idle(live, self.next_offset)

    @property
    def replaying(self) -> bool:
        """Whether the next record is one that had been taken before."""
        return self.next_offset < self._replay.until

    def stop_clock(self) -> None:
        """Nothing can be read at present: no stream is idle for that."""
        now = time.monotonic()
        for live in self._streams.open.values():
            live.touched = now

    def drop(self) -> None:
        """Forget all streams; another worker has them now, or this one begins again."""
        self.dropped = True
        self.account()
        self._streams.drop()

    def park(self, live: LiveStream) -> bool:
        """Forget a stream's audio and state until there is room; it is read again then. False if it may not be."""
        if self.replaying or live.partition is not self:
            return False
        self.parking.park(live.row.stream, live.oldest_unheard(), self._waiting_s([live]))
        return True

    def oldest_unheard(self) -> int | None:
        """Kafka timestamp, ms, of the oldest record not yet through the engine."""
        times = (live.oldest_unheard() for live in self._streams.live)
        return min([*(t for t in times if t is not None), *self.parking.oldest], default=None)

    def audio_unheard(self, unread: int) -> float:
        """Seconds of audio not yet through the engine, given how many records are not read: these are estimated."""
        mean = self._streams.audio.mean
        return self._waiting_s(self._streams.live) + self.parking.audio(mean) + unread * mean

    def account(self) -> None:
        """Count the audio of what was read since: a counter for each record would cost as much as decoding it."""
        audio = self._streams.audio
        new, audio.new = audio.new, 0.0
        self._metrics.audio_read.inc(new)

    def _waiting_s(self, streams: Iterable[LiveStream]) -> float:
        deployment = self._streams.deployment
        samples = deployment.scheduler.waiting(live.feed for live in streams)
        return samples / deployment.engine.geometry.sample_rate

    def _letter(self, row: Row | EndedRow) -> Letter:
        return Letter(self._topic, row_key(row.stream, self.number, row.first_offset), encode_row(row))
