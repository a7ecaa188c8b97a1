"""The streams of a partition that have ended."""

from collections import OrderedDict

from worker.delivery.table import EndedRow, Table, row_key

# Ended streams remembered, so that audio after the end is rejected and not taken for a new stream.
ENDED_STREAMS = 10_000


class EndedStreams:
    """The streams that ended last, in log order, and the rows of those that nobody needs to remember.

    A row outlives the memory: as long as the committed offset has not passed the stream's last record, a restart may
    read that record again and must know that all was told. Of the streams of one name the latest is remembered: the
    end of an earlier one may be told after it, and told again after a restart.
    """

    def __init__(self, partition: int, table: Table) -> None:
        self._partition = partition
        self._streams: OrderedDict[str, EndedRow] = OrderedDict()
        self._rows: dict[str, EndedRow] = {}  # published ends, of the streams in _streams
        self._superfluous: list[EndedRow] = []
        for row in sorted(table.ended.values(), key=lambda row: row.last_offset):
            self.add(row)
            self.published(row)

    def get(self, stream: str) -> EndedRow | None:
        """The stream of this name that ended, if it is remembered and the name is not taken anew."""
        return self._streams.get(stream)

    def add(self, row: EndedRow) -> None:
        """The stream takes no more records."""
        if self._later(row.stream, row.first_offset):
            return
        self._forget(row.stream)
        self._streams[row.stream] = row
        while len(self._streams) > ENDED_STREAMS:
            self._forget(next(iter(self._streams)))

    def forget(self, stream: str, first_offset: int) -> None:
        """The stream's name is taken anew, by the one that begins at this offset."""
        if not self._later(stream, first_offset):
            self._forget(stream)

    def published(self, row: EndedRow) -> None:
        """The stream's end goes out with the next commit."""
        known = self._streams.get(row.stream)
        if known is not None and known.first_offset == row.first_offset:
            self._rows[row.stream] = row
        else:
            self._superfluous.append(row)

    def tombstones(self, resume_offset: int) -> list[bytes]:
        """Keys of rows that no restart can need; each is returned once."""
        passed = [row for row in self._superfluous if row.last_offset < resume_offset]
        self._superfluous = [row for row in self._superfluous if row.last_offset >= resume_offset]
        return [row_key(row.stream, self._partition, row.first_offset) for row in passed]

    def _later(self, stream: str, first_offset: int) -> bool:
        """Whether a later stream of the name is known to have ended."""
        return stream in self._streams and self._streams[stream].first_offset > first_offset

    def _forget(self, stream: str) -> None:
        row = self._rows.pop(stream, None)
        self._streams.pop(stream, None)
        if row is not None:
            self._superfluous.append(row)
