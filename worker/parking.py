"""Streams of a partition that wait for a slot without holding audio, and how they are read again.

A parked stream is only what the stream table says of it. Records of its name that come meanwhile are passed over, and
the table says from where on: they have not been taken. When there is room, they are read again from the stream's
resume point by a reader of their own, until it has caught up with the partition.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wire.codec import decode_record
from wire.fields import WireError
from worker.delivery.ledger import Letter
from worker.delivery.table import CheckpointRef, Row, Table, deferred_key, encode_deferred, encode_row, row_key
from worker.engine.interface import Tokens
from worker.live import LiveStream
from worker.replay import Replay
from worker.stream.segment import Source
from worker.streams import Streams
from worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from worker.state.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Parked:
    """A name's streams. Records before `taken` had been taken; seconds of their audio that wait: `audio`.

    oldest: Kafka timestamp, ms, of what waits. began: monotonic time at which this worker first had them.
    """

    rows: Sequence[Row]
    taken: int
    oldest: int | None
    audio: float
    began: float

    @property
    def resumes(self) -> int:
        return min(row.resumes for row in self.rows)


class Home(Protocol):
    """What parking asks of the partition."""

    number: int
    next_offset: int

    def relies_on(self, live: LiveStream, checkpoint: CheckpointRef) -> bool: ...

    def heard(self, live: LiveStream, tokens: Tokens, last: bool) -> None: ...

    def reject(self, key: bytes | None, value: bytes | None, offset: int, error: WireError) -> None: ...


class ReadAgain:
    """Some parked names of one partition on their way back. `next_offset`: the record to read next, once begun.

    `rows`: what the table says of their streams, by its keys.
    """

    def __init__(self, home: Home, streams: Streams, parked: Mapping[str, Parked], metrics: Metrics) -> None:
        self.number = home.number
        self.next_offset = min(p.resumes for p in parked.values())
        self.names = set(parked)
        rows = [row for names in parked.values() for row in names.rows]
        self.rows = {row_key(row.stream, home.number, row.first_offset): row for row in rows}
        self._home = home
        self._streams = streams
        self._parked = parked
        self._metrics = metrics
        self._replay: Replay | None = None

    @property
    def begun(self) -> bool:
        return self._replay is not None

    def begin(self, first: int, checkpoints: Mapping[bytes, "Checkpoint"]) -> None:
        """Reading starts where these checkpoints, read back, allow. `first`: earlier records are no longer kept."""
        needed = (row.resumes if key in checkpoints else row.begins for key, row in self.rows.items())
        self.next_offset = max(first, min(needed))
        table = Table(live=self.rows, deferred={name: parked.taken for name, parked in self._parked.items()})
        self._replay = Replay(self, self._streams, table, checkpoints, self._metrics)

    def accept(self, key: bytes | None, value: bytes | None, offset: int, timestamp: int) -> None:
        """Take the next record of the partition; only those of the parked names matter."""
        assert self._replay is not None
        if self.caught_up:
            return
        if offset >= self._home.next_offset:  # the partition's own to take
            self.next_offset = self._home.next_offset
            return
        self.next_offset = offset + 1
        try:
            name = (key or b"").decode()
        except UnicodeDecodeError:
            return
        if name in self.names:
            again = self._replay.knows(name, offset)
            source = Source(offset, timestamp)
            try:
                if again:
                    self._replay.take(name, value, source)
                else:
                    self._streams.route(name, decode_record(value), source, self)
            except WireError as error:
                if not again:
                    self._home.reject(key, value, offset, error)
        self._replay.apply_clock()

    def skip(self) -> None:
        """Pass over a record that cannot be unpacked."""
        self.next_offset += 1

    @property
    def caught_up(self) -> bool:
        return self.begun and self.next_offset >= self._home.next_offset

    def taken(self, name: str) -> int:
        """Records of the name before this offset have been taken."""
        return max(self._parked[name].taken, self.next_offset)

    def relies_on(self, live: LiveStream, checkpoint: CheckpointRef) -> bool:
        return self._home.relies_on(live, checkpoint)

    def heard(self, live: LiveStream, tokens: Tokens, last: bool) -> None:
        self._home.heard(live, tokens, last)


class Parking:
    """The parked names of one partition."""

    def __init__(self, home: Home, streams: Streams, replay: Replay, topic: str, metrics: Metrics) -> None:
        self._home = home
        self._streams = streams
        self._replay = replay
        self._topic = topic
        self._metrics = metrics
        self._parked: dict[str, Parked] = {}  # those on their way back included
        self._passed: Counter[str] = Counter()  # records of each name since
        self._returning: ReadAgain | None = None
        self._letters: list[Letter] = []
        self._written = dict(replay.deferred)  # as the table has them

    def __contains__(self, name: str) -> bool:
        return name in self._parked

    def __len__(self) -> int:
        return len(self._parked)

    @property
    def returning(self) -> ReadAgain | None:
        return self._returning

    @property
    def oldest(self) -> Iterable[int]:
        """Kafka timestamps of what waits, one a name."""
        return [parked.oldest for parked in self._parked.values() if parked.oldest is not None]

    def audio(self, mean: float) -> float:
        """Seconds of audio that wait, if a record holds `mean`; of names on their way back, all that waited."""
        return sum(parked.audio for parked in self._parked.values()) + mean * self._passed.total()

    def pass_over(self, name: str) -> None:
        """A record of this name has come, and is left for later."""
        self._passed[name] += 1

    def park(self, name: str, oldest: int | None, audio: float) -> None:
        """Forget the streams of this name until there is room."""
        began = min(live.feed.began for live in self._streams.live if live.row.stream == name)
        rows = self._streams.park(name)
        self._parked[name] = Parked(rows, self._home.next_offset, oldest, audio, began)
        self._letters += [
            Letter(self._topic, row_key(r.stream, self._home.number, r.first_offset), encode_row(r)) for r in rows
        ]

    def longest_waiting(self, count: int) -> dict[str, Parked]:
        """Up to `count` names, those whose streams began first."""
        order = sorted(self._parked.items(), key=lambda item: item[1].rows[0].first_offset)
        return dict(order[:count])

    def read_again(self, parked: Mapping[str, Parked]) -> ReadAgain:
        """These names are on their way back."""
        self._returning = ReadAgain(self._home, self._streams, parked, self._metrics)
        return self._returning

    def join(self) -> bool:
        """Hand streams that have caught up to the partition; False while they have not."""
        returning = self._returning
        if returning is None or not returning.caught_up:
            return False
        for live in self._streams.live:
            if live.partition is returning:
                live.join(self._home, self._parked[live.row.stream].began)
        for name in returning.names:
            self._parked.pop(name)
            self._passed.pop(name, None)
        self._returning = None
        return True

    def needs(self) -> list[int]:
        """Offsets that a restart needs for parked streams."""
        returning = self._returning
        away = returning.names if returning is not None and returning.begun else set()
        needed = [parked.resumes for name, parked in self._parked.items() if name not in away]
        return [*needed, returning.next_offset] if returning is not None and returning.begun else needed

    def rows(self) -> list[Letter]:
        """What the table is to say with the next commit, and did not with the last."""
        letters, self._letters = self._letters, []
        returning = self._returning
        now = {
            name: returning.taken(name) if returning is not None and name in returning.names else parked.taken
            for name, parked in self._parked.items()
        }
        if self._home.next_offset < self._replay.until:  # those of an earlier worker, passed only in part
            now |= {name: max(taken, self._home.next_offset) for name, taken in self._replay.deferred.items()}
        for name in self._written.keys() - now.keys():
            letters.append(Letter(self._topic, deferred_key(name), None))
        for name, taken in now.items():
            if self._written.get(name) != taken:
                letters.append(Letter(self._topic, deferred_key(name), encode_deferred(taken)))
        self._written = now
        return letters
