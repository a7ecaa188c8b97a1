"""What a worker does before it reads a partition that was assigned to it, in an order that matters.

1. Prove ownership: commit the offset just read, which the brokers check against the group's generation.
2. Fence: start the partition's ledger. Earlier owners can publish nothing from here on.
3. Read the committed offset and the stream table, to its end as of now.
4. Fetch the checkpoints that the table names; a stream without one begins at its first record.
5. Read from the smallest of these offsets, even below the committed one.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError, UnsupportedCodecError
from aiokafka.structs import OffsetAndMetadata

from worker.delivery.ledger import Ledger
from worker.delivery.table import READ_TIMEOUT_MS, Row, Table, TableError, read_table, row_key
from worker.failpoint import failpoint
from worker.leaving import stop_consumer
from worker.settings import KafkaSettings

if TYPE_CHECKING:
    from worker.state.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class Checkpoints(Protocol):
    """Where checkpoints are read back from."""

    async def fetch(self, row: Row) -> "Checkpoint | None":
        """The one that the row names, if exactly that one can be read and used; None otherwise."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a partition begins with: its ledger, where to read, what its streams had told, their state."""

    ledger: Ledger
    resume: int
    table: Table
    checkpoints: dict[bytes, "Checkpoint"]


async def restore(
    place: TopicPartition,
    consumer: AIOKafkaConsumer,
    settings: KafkaSettings,
    client: dict[str, Any],
    make_ledger: Callable[[int], Ledger],
    checkpoints: Checkpoints,
) -> Restored:
    """Raises KafkaError, TimeoutError, TableError: nothing was begun, it may be tried again."""
    timeout = settings.request_timeout_ms / 1000
    async with asyncio.timeout(timeout):
        first = (await consumer.beginning_offsets([place]))[place]
        before = await consumer.committed(place)
        await consumer.commit({place: OffsetAndMetadata(first if before is None else before, "")})  # 1
    failpoint("restore.1-owned")
    ledger = make_ledger(place.partition)
    await ledger.start()  # 2
    try:
        failpoint("restore.2-fenced")
        async with asyncio.timeout(timeout):  # 3
            committed = await consumer.committed(place)
            first = (await consumer.beginning_offsets([place]))[place]
            end = (await consumer.end_offsets([place]))[place]
        table = await read_table(
            client, settings.streams_topic, place.partition, settings.transaction_timeout_ms / 1000
        )
        if table.group not in (None, settings.group):
            raise TableError(
                f"{settings.streams_topic} is the stream table of group {table.group!r}, this worker is of "
                f"{settings.group!r}: give each group a table of its own (kafka.streams_topic)"
            )
        if not await _of_this_log(table, place, first, end, client, timeout):
            log.error(
                "partition %d: the stream table speaks of offset %s of %s, and of another record there than this topic "
                "has: the topic was made anew, so the table begins anew, too",
                place.partition,
                table.read,
                place.topic,
            )
            table, committed = table.emptied(), first
        failpoint("restore.3-table")
        found = await _fetch(place.partition, table.live.values(), checkpoints)  # 4
        failpoint("restore.4-checkpoints")
    except BaseException:
        await ledger.stop()
        raise
    needed = [row.resumes if key in found else row.begins for key, row in table.live.items()]
    read = max(table.read or 0, committed or 0, first)
    resume = min([read, *needed])  # 5
    if resume < first:
        log.error(
            "partition %d: offsets %d to %d are needed but are no longer kept; raise the retention of %s",
            place.partition,
            resume,
            first - 1,
            place.topic,
        )
        resume = first
    log.info(
        "partition %d: %d streams, %d of them from checkpoints, reading from offset %d of %d",
        place.partition,
        len(table.live),
        len(found),
        resume,
        end,
    )
    return Restored(ledger, resume, table, found)


async def _of_this_log(
    table: Table, place: TopicPartition, first: int, end: int, client: dict[str, Any], timeout: float
) -> bool:
    """Whether the last record that the table knows of is the one that the topic has at its offset.

    The group's offset would not tell: brokers forget it with the topic, but also without. True where nothing tells.
    """
    if table.read is None:
        return True
    if table.read > end:
        return False
    if table.stamp is None or table.read <= first:
        return True
    last = table.read - 1
    consumer = AIOKafkaConsumer(
        **client, enable_auto_commit=False, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    try:
        async with asyncio.timeout(timeout):
            await consumer.start()
            consumer.assign([place])
            consumer.seek(place, last)
            while await consumer.position(place) <= last:
                records = await consumer.getmany(place, timeout_ms=READ_TIMEOUT_MS, max_records=1)
                for record in records.get(place, []):
                    return bool(record.offset == last and record.timestamp == table.stamp)
        return False
    except (UnsupportedCodecError, CorruptRecordException):
        return True
    finally:
        await stop_consumer(consumer, timeout)


async def _fetch(partition: int, rows: Iterable[Row], checkpoints: Checkpoints) -> dict[bytes, "Checkpoint"]:
    named = [row for row in rows if row.checkpoint is not None]
    fetched = await asyncio.gather(*(checkpoints.fetch(row) for row in named))
    return {
        row_key(row.stream, partition, row.first_offset): checkpoint
        for row, checkpoint in zip(named, fetched, strict=True)
        if checkpoint is not None
    }


def retriable(error: BaseException) -> bool:
    """Whether a failed restore may be tried again: the group is changing, or the brokers are away."""
    return isinstance(error, KafkaError | TimeoutError | OSError)
