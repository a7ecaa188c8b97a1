"""The stream table: one row a stream on a compacted topic, and how it is read back.

A row is written in the transaction that publishes what it speaks of, so that after any crash it says exactly what
readers of the finals can see. A partition's own row says how far its audio had been read by then. Values are
msgpack maps with a version; the topic is internal, only workers read it.
"""

import asyncio
from dataclasses import astuple, dataclass, field
from typing import Any

import msgpack
from aiokafka import AIOKafkaConsumer, TopicPartition

from wire.codec import decode_record, encode_record
from wire.records import Start
from worker.leaving import stop_consumer
from worker.stream.session import SessionLimits
from worker.transcript.transcriber import Progress

VERSION = 1
# No stream has this key: theirs end with a partition and an offset.
PARTITION_KEY = b"/"
DEFERRED_SUFFIX = b"/+"
# A nonce that no producer can send stands for the start of a stream that had none.
NO_NONCE = "-"
READ_TIMEOUT_MS = 50


class TableError(Exception):
    """A row that this version cannot read; the text says which."""


@dataclass(frozen=True, slots=True)
class CheckpointRef:
    """A checkpoint that a commit relies on. It reflects the stream's records before `offset`."""

    key: str
    offset: int


@dataclass(frozen=True, slots=True)
class Base:
    """Where a stream begins since the records before `offset` are no longer kept, and what had been told by then."""

    offset: int
    told: Progress


@dataclass(frozen=True, slots=True)
class Row:
    """A stream of which not all is published.

    `start` has every option filled in, and `limits` are those of the stream's beginning, so that a restart under other
    settings changes nothing. `idle_at`: the clock ended the stream after the records before this offset.
    """

    stream: str
    first_offset: int
    nonce: str | None
    start: Start
    limits: SessionLimits
    published: Progress
    model: str
    checkpoint: CheckpointRef | None = None
    idle_at: int | None = None
    base: Base | None = None

    @property
    def begins(self) -> int:
        """The record that a restart without a checkpoint begins with."""
        return self.first_offset if self.base is None else self.base.offset

    @property
    def resumes(self) -> int:
        """The first record that a restart needs if it has the checkpoint."""
        return self.begins if self.checkpoint is None else self.checkpoint.offset


@dataclass(frozen=True, slots=True)
class EndedRow:
    """A stream whose last event is published. `last_offset`: of the record that ended it.

    What its records are known by if they come again: `position`, where its audio ended, in samples of `width` bytes;
    `flushes`, id and position of the latest ones.
    """

    stream: str
    first_offset: int
    nonce: str | None
    last_offset: int
    position: int = 0
    width: int = 1
    flushes: tuple[tuple[str, int | None], ...] = ()


@dataclass(slots=True)
class Table:
    """One partition's rows as of some commit. `read`: offset before which all records had been taken; None if new.
    `stamp`: Kafka timestamp, ms, of the last of them, if known: by it the audio topic is known again.

    `group`: the consumer group that wrote it. `deferred`: names whose records had only been taken before these offsets,
    since there was no room for their streams. `stale`: keys of rows that are of no use any more, and must go.
    """

    read: int | None = None
    stamp: int | None = None
    group: str | None = None
    deferred: dict[str, int] = field(default_factory=dict)
    stale: list[bytes] = field(default_factory=list)
    live: dict[bytes, Row] = field(default_factory=dict)
    ended: dict[bytes, EndedRow] = field(default_factory=dict)

    def apply(self, key: bytes, value: bytes | None) -> None:
        """Take the next record of the topic. Raises TableError."""
        if key == PARTITION_KEY:
            found = _unpack(key, value)
            self.read, self.stamp, self.group = int(found["read"]), found["stamp"], str(found["group"])
            return
        if key.endswith(DEFERRED_SUFFIX):
            self._defer(key, value)
            return
        self.live.pop(key, None)
        self.ended.pop(key, None)
        if value is None:
            return
        try:
            row = _decode(_unpack(key, value))
        except (KeyError, TypeError, ValueError) as error:
            raise TableError(f"row {key!r} cannot be read: {error!r}") from None
        if isinstance(row, Row):
            self.live[key] = row
        else:
            self.ended[key] = row

    def emptied(self) -> "Table":
        """A table without rows: these are of a topic that is no more."""
        deferred = [deferred_key(stream) for stream in self.deferred]
        return Table(stale=[*self.live, *self.ended, *deferred])

    def _defer(self, key: bytes, value: bytes | None) -> None:
        stream = key[: -len(DEFERRED_SUFFIX)].decode()
        if value is None:
            self.deferred.pop(stream, None)
        else:
            self.deferred[stream] = int(_unpack(key, value)["from"])


def deferred_key(stream: str) -> bytes:
    return stream.encode() + DEFERRED_SUFFIX


def encode_deferred(offset: int) -> bytes:
    return _pack({"v": VERSION, "from": offset})


def row_key(stream: str, partition: int, first_offset: int) -> bytes:
    """The stream's part of its event ids."""
    return f"{stream}/{partition}-{first_offset}".encode()


def encode_row(row: Row | EndedRow) -> bytes:
    common = {"v": VERSION, "stream": row.stream, "first": row.first_offset, "nonce": row.nonce}
    if isinstance(row, EndedRow):
        ended = {"position": row.position, "width": row.width, "flushes": row.flushes}
        return _pack(common | {"last": row.last_offset} | ended)
    return _pack(
        common
        | {
            "start": encode_record(row.start),
            "limits": list(astuple(row.limits)),
            "published": list(astuple(row.published)),
            "model": row.model,
            "checkpoint": None if row.checkpoint is None else [row.checkpoint.key, row.checkpoint.offset],
            "idle_at": row.idle_at,
            "base": None if row.base is None else [row.base.offset, *astuple(row.base.told)],
        }
    )


def encode_partition(read: int, stamp: int | None, group: str) -> bytes:
    return _pack({"v": VERSION, "read": read, "stamp": stamp, "group": group})


async def read_table(client: dict[str, Any], topic: str, partition: int, timeout_s: float) -> Table:
    """The partition's rows up to the end of the topic as of now. Raises TableError, KafkaError, TimeoutError.

    To be called after fencing: then nobody else writes, and no transaction of an earlier owner is open.
    """
    table = Table()
    place = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        **client, enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    try:
        async with asyncio.timeout(timeout_s):
            await consumer.start()
            consumer.assign([place])
            await consumer.seek_to_beginning(place)
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:  # markers of transactions count, and move the position
                for records in (await consumer.getmany(place, timeout_ms=READ_TIMEOUT_MS)).values():
                    for record in records:
                        table.apply(record.key, record.value)
    finally:
        await stop_consumer(consumer, timeout_s)
    return table


def _decode(found: dict[str, Any]) -> Row | EndedRow:
    stream, first, nonce = found["stream"], int(found["first"]), found["nonce"]
    if "last" in found:
        flushes = tuple((flush_id, position) for flush_id, position in found["flushes"])
        return EndedRow(stream, first, nonce, int(found["last"]), found["position"], found["width"], flushes)
    start = decode_record(found["start"])
    if not isinstance(start, Start):
        raise ValueError(f"start is a {type(start).__name__}")
    checkpoint = None if found["checkpoint"] is None else CheckpointRef(*found["checkpoint"])
    base = None if found["base"] is None else Base(found["base"][0], Progress(*found["base"][1:]))
    limits, published = SessionLimits(*found["limits"]), Progress(*found["published"])
    return Row(stream, first, nonce, start, limits, published, found["model"], checkpoint, found["idle_at"], base)


def _pack(value: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


def _unpack(key: bytes, value: bytes | None) -> dict[str, Any]:
    try:
        found = msgpack.unpackb(value or b"")
    except (ValueError, msgpack.UnpackException) as error:
        raise TableError(f"row {key!r} is not msgpack: {error!r}") from None
    if not isinstance(found, dict) or found.get("v") != VERSION:
        raise TableError(
            f"row {key!r} is of another version than {VERSION}; it was written by another release of Trunkline"
        )
    return found
