"""What a commit of input offsets says, and when it may be made.

The committed offset of a partition is the first record that a restart would need: that of the oldest live stream.
Its metadata says how far the partition had been read, so that a restart passes over the rest of streams that were
complete by then.
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from worker.delivery.publisher import Publisher

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Committed:
    """A partition's commit: the offset to resume at, and the offset read up to."""

    resume: int
    read: int

    def metadata(self) -> str:
        return json.dumps({"v": 1, "read": self.read}, separators=(",", ":"))

    @classmethod
    def parse(cls, offset: int, metadata: str) -> "Committed":
        """A commit made by another tool has no metadata of ours: then nothing is known to have been read."""
        try:
            read = int(json.loads(metadata)["read"])
        except (ValueError, KeyError, TypeError):
            read = offset
        return cls(offset, max(read, offset))


async def read_committed(client: dict[str, Any], group: str, topic: str, partition: int) -> Committed | None:
    """The group's commit for one partition; None if there is none."""
    admin = AIOKafkaAdminClient(**client)
    await admin.start()
    try:
        place = TopicPartition(topic, partition)
        found = (await admin.list_consumer_group_offsets(group, partitions=[place])).get(place)
    finally:
        await admin.close()
    if found is None or found.offset < 0:
        return None
    return Committed.parse(found.offset, found.metadata)


class Progress(Protocol):
    """What the committer asks of a partition."""

    number: int

    @property
    def resume_offset(self) -> int: ...

    next_offset: int


class Committer:
    """Commits a partition's offset once everything it rests on is on the brokers. Delivery is at least once."""

    def __init__(self, consumer: AIOKafkaConsumer, topic: str, publisher: Publisher, interval_ms: int) -> None:
        self._consumer = consumer
        self._topic = topic
        self._publisher = publisher
        self._interval = interval_ms / 1000
        self._last: dict[int, Committed] = {}

    async def run(self, partitions: dict[int, Any]) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self.commit(list(partitions.values()))

    def forget(self, numbers: Sequence[int]) -> None:
        """These partitions were taken away; what was committed for them is no longer known."""
        for number in numbers:
            self._last.pop(number, None)

    async def commit(self, partitions: Sequence[Progress]) -> None:
        """A failed commit is logged and made good by the next: a restart in between repeats some events.

        1. Note how far each partition may be committed: no live stream begins before.
        2. Wait until all that was published until then is acknowledged.
        3. Commit the noted offsets.
        """
        noted = {p.number: Committed(p.resume_offset, p.next_offset) for p in partitions}
        changed = {number: place for number, place in noted.items() if self._last.get(number) != place}
        for number in changed:
            await self._publisher.acknowledged(number)
        if not changed:
            return
        try:
            await self._consumer.commit(
                {
                    TopicPartition(self._topic, number): OffsetAndMetadata(place.resume, place.metadata())
                    for number, place in changed.items()
                }
            )
        except (KafkaError, IllegalStateError) as error:
            log.warning("offsets of partitions %s were not committed: %r", sorted(changed), error)
        else:
            self._last.update(changed)
