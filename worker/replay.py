"""Going on from the stream table: streams from their checkpoints, and records that were taken before.

A record before the table's `read` was taken by whoever made the last commit. It is taken again only for a stream of
which not all is published; whatever was wrong with it was rejected then.
"""

import logging
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from wire.codec import decode_record
from wire.records import Audio, Start
from worker.delivery.table import Base, EndedRow, Row, Table, row_key
from worker.live import LiveStream, Owner
from worker.stream.segment import Source
from worker.streams import Streams
from worker.telemetry.logs import about
from worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from worker.state.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class Replay:
    """`until`: the offset at which records are new; `deferred`: earlier ones, for some names.

    `checkpoints`: those read back, by row key.
    """

    def __init__(
        self,
        owner: Owner,
        streams: Streams,
        table: Table,
        checkpoints: Mapping[bytes, "Checkpoint"],
        metrics: Metrics,
    ) -> None:
        self.until = table.read or 0
        self.deferred = dict(table.deferred)
        self._owner = owner
        self._streams = streams
        self._metrics = metrics
        self._rows: defaultdict[str, list[Row | EndedRow]] = defaultdict(list)
        rows: list[Row | EndedRow] = [*table.live.values(), *table.ended.values()]
        for row in sorted(rows, key=lambda row: row.first_offset):
            self._rows[row.stream].append(row)
        self._waiting: dict[bytes, LiveStream] = {}  # restored, until their first record comes by
        self._clock: list[LiveStream] = []  # ended by the clock then, not yet again
        for row in sorted(table.live.values(), key=lambda row: row.first_offset):
            self._restore(row, checkpoints.get(self._key(row)))
        self.apply_clock()

    def knows(self, stream: str, offset: int) -> bool:
        """Whether a record of this name had been taken."""
        if offset < self.deferred.get(stream, self.until):
            return True
        # without transactions a stream's row may be there before the partition's
        row = self._row(stream, offset)
        if isinstance(row, EndedRow):
            return offset <= row.last_offset
        return row is not None and (offset == row.first_offset or offset < row.resumes)

    def take(self, stream: str, value: bytes | None, source: Source) -> None:
        """A record that had been taken. Raises WireError for one that was rejected then."""
        row = self._row(stream, source.offset)
        if row is None:
            return
        first = source.offset == row.first_offset
        current = self._streams.open.get(stream)
        if first and current is not None and current.row.first_offset != row.first_offset:
            self._streams.restart(stream, source)
            current = None
        if isinstance(row, EndedRow):
            return
        restored = self._waiting.pop(self._key(row), None)
        if restored is not None:
            self._streams.take_over(restored, source)
            current = restored
        if first and current is None:
            self._begin_again(row, decode_record(value), source)
        elif current is not None and source.offset >= current.resume_offset:
            record = decode_record(value)
            if isinstance(record, Start) and not current.session.start_again(record):
                return  # it was rejected then
            before = current.session.time
            self._streams.route(stream, record, source, self._owner)
            self._metrics.replayed.inc((current.session.time - before) / 1000)

    def apply_clock(self) -> None:
        """What the clock decided before the restart, at the place in the log where it decided."""
        for live in [live for live in self._clock if (live.row.idle_at or 0) <= self._owner.next_offset]:
            self._clock.remove(live)
            if not live.retired:
                self._streams.end_idle(live, live.row.idle_at or 0)

    def _row(self, stream: str, offset: int) -> Row | EndedRow | None:
        """The stream of this name at this offset: the last that began at or before. None: complete long ago."""
        rows = self._rows.get(stream)
        if rows is None:
            return None
        index = bisect_right(rows, offset, key=lambda row: row.first_offset)
        return rows[index - 1] if index else None

    def _key(self, row: Row | EndedRow) -> bytes:
        return row_key(row.stream, self._owner.number, row.first_offset)

    def _restore(self, row: Row, checkpoint: "Checkpoint | None") -> None:
        """A stream that goes on from its checkpoint, its base or, where its first record is gone, after a gap."""
        deployment, next_offset = self._streams.deployment, self._owner.next_offset
        if checkpoint is not None:
            session = deployment.restored(checkpoint, row.limits)
        else:
            row = replace(row, checkpoint=None)
            if row.begins < next_offset:
                log.error(
                    "the beginning of the stream is no longer kept; it goes on after a gap",
                    extra=about(self._owner.number, row.stream),
                )
                row = replace(row, base=Base(next_offset, row.published))
            elif row.base is None:
                return  # begins again when its first record is read
            assert row.base is not None
            session = deployment.session(row.start, row.nonce, Source(row.begins, 0), row.limits)
            session.begin_at(row.base.told.time * row.start.sample_rate // 1000)
        live = LiveStream(self._owner, row, deployment, session, checkpoint)
        self._streams.add(live)
        if row.idle_at is not None:
            self._clock.append(live)
        if row.first_offset < next_offset:
            self._streams.take_over(live, Source(row.first_offset, 0))
        else:
            self._waiting[self._key(row)] = live

    def _begin_again(self, row: Row, record: object, source: Source) -> None:
        """The first record of a stream without a checkpoint."""
        session = self._streams.deployment.session(row.start, row.nonce, source, row.limits)
        items = session.audio(record, source) if isinstance(record, Audio) else []
        live = self._streams.open_stream(replace(row, checkpoint=None), session, self._owner)
        if row.idle_at is not None:
            self._clock.append(live)
        live.apply(items)
