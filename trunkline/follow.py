"""Follows transcripts on Kafka: finals as `read_committed` shows them, and partials, each event once."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, UnsupportedCodecError
from aiokafka.partitioner import DefaultPartitioner

from producer.connection import unreachable
from producer.reach import Unreachable, reach
from producer.security import Security
from wire import Final, Partial, StreamEnd, Topics, WireError, decode_final, decode_partial, encode_key
from wire.topics import HEADER_INPUT_TIMESTAMP

log = logging.getLogger(__name__)

# Streams whose last number is remembered, to know an event that comes again; the least recently heard go first.
REMEMBERED = 100_000
# A call's streams are ended apart: with no event of another for so long, all of them have.
CALL_SETTLES_S = 3.0
STOP_TIMEOUT_S = 5.0
# A broker that has just started may not know its topics for a moment.
TOPIC_GONE_S = 2.0

Event = Final | Partial


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and the Kafka timestamp in ms of the record that completed its chunk, if its writer says that."""

    event: Event
    input_ms: int | None


class FollowError(RuntimeError):
    """Kafka cannot be read: no broker in time, no topic, or batches in a codec that is not installed."""


class Follower:
    """Reads one stream, the streams of one call, or all; an async context manager. It joins no consumer group.

    stream, call: ids, at most one of them. from_beginning: finals from the topic's start; partials always from now on.
    Raises FollowError on entry if Kafka does not answer in `start_timeout` seconds or a topic is missing, WireError for
    a stream id that cannot be one. security: TLS and SASL; raises SecurityError for what cannot work.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Topics | None = None,
        *,
        stream: str | None = None,
        call: str | None = None,
        from_beginning: bool = False,
        partials: bool = True,
        start_timeout: float = 30.0,
        security: Security | None = None,
    ) -> None:
        self._servers = bootstrap_servers
        self._client = {"bootstrap_servers": bootstrap_servers, **(security.client() if security else {})}
        self._topics = topics or Topics()
        self._stream = stream
        self._key = encode_key(stream) if stream is not None else None
        self._call = call
        self._from_beginning = from_beginning
        self._partials = partials
        self._start_timeout = start_timeout
        self._last: OrderedDict[str, tuple[int, int]] = OrderedDict()  # stream -> first offset, last number
        self._open: set[str] = set()
        self._ended_at: float | None = None  # when the last stream that was open ended

    async def next(self, timeout_s: float) -> list[Told]:
        """The events that have come, in each stream's order; none after `timeout_s`. Raises FollowError."""
        try:
            found = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000), max_records=2000)
        except UnsupportedCodecError as error:
            raise FollowError(f"transcripts cannot be unpacked ({error}): pip install cramjam") from error
        except KafkaError as error:
            raise FollowError(f"cannot read from Kafka at {self._servers}: {error}") from error
        self._check_topics()
        # The topics are not ordered against each other: a partial that is final already is not news.
        finals = [self._decode(r) for p, records in found.items() if p.topic == self._topics.final for r in records]
        partials = [self._decode(r) for p, records in found.items() if p.topic != self._topics.final for r in records]
        return [told for told in finals + partials if told is not None and self._is_new(told.event)]

    def _check_topics(self) -> None:
        """Raises FollowError for a topic deleted meanwhile: the client would ask for it for ever."""
        now = asyncio.get_running_loop().time()
        topics = {partition.topic for partition in self._consumer.assignment()}
        missing = sorted(topic for topic in topics if not self._consumer.partitions_for_topic(topic))
        if not missing:
            self._seen_at = now
        elif now - self._seen_at > TOPIC_GONE_S:
            raise FollowError(f"topic {missing[0]} is no longer on {self._servers}")

    @property
    def ended(self) -> bool:
        """Whether the stream has ended, or every stream of the call that was heard of."""
        if self._ended_at is None or self._open:
            return False
        settled = asyncio.get_running_loop().time() - self._ended_at
        return self._stream is not None or settled >= CALL_SETTLES_S

    def _decode(self, record: ConsumerRecord) -> Told | None:
        """The event, if it is wanted."""
        if self._key is not None and record.key != self._key:
            return None
        try:
            final = record.topic == self._topics.final
            event: Event = decode_final(record.value) if final else decode_partial(record.value)
        except WireError as error:
            where = f"{record.topic}, partition {record.partition}, offset {record.offset}"
            log.warning("%s is not a transcript event: %s", where, error)
            return None
        head = event.head
        if self._call is not None:
            named = head.call_id if head.call_id is not None else head.stream.rpartition("/")[0]
            if self._call not in (named, head.stream):
                return None
        stamp = next((value for key, value in record.headers if key == HEADER_INPUT_TIMESTAMP), b"")
        return Told(event, int(stamp) if stamp.isdigit() else None)

    def _is_new(self, event: Event) -> bool:
        """Whether the event was not told before; a worker that starts again may publish finals twice."""
        head = event.head
        place = _first_offset(head.id), head.number
        if place <= self._last.get(head.stream, (-1, -1)):
            return False
        if isinstance(event, Partial):
            self._open.add(head.stream)
            return True
        self._last[head.stream] = place
        self._last.move_to_end(head.stream)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        if isinstance(event, StreamEnd) and event.reason != "restarted":
            self._open.discard(head.stream)
            self._ended_at = asyncio.get_running_loop().time()
        else:
            self._open.add(head.stream)
        return True

    async def __aenter__(self) -> Self:
        try:
            await reach(self._client, self._start_timeout)
            self._consumer = AIOKafkaConsumer(
                **self._client,
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",  # what retention took away meanwhile is passed over
                fetch_max_wait_ms=100,
            )
        except (Unreachable, ValueError) as error:  # ValueError: an address that is none
            raise FollowError(f"cannot reach Kafka at {self._servers}: {error}") from error
        try:
            async with asyncio.timeout(self._start_timeout):
                await self._consumer.start()
                await self._assign()
                self._seen_at = asyncio.get_running_loop().time()
        except (TimeoutError, KafkaError, OSError) as error:
            await self._stop()
            raise FollowError(unreachable(self._servers, error, self._start_timeout)) from error
        except BaseException:
            await self._stop()
            raise
        return self

    async def _assign(self) -> None:
        # All topics, because asking for one by name would create it on a broker that allows that.
        known = await self._consumer._client.fetch_all_metadata()
        wanted = {}
        for topic in (self._topics.final, *([self._topics.partial] if self._partials else [])):
            numbers = sorted(known.partitions_for_topic(topic) or ())
            if not numbers:
                raise FollowError(f"topic {topic} does not exist on {self._servers}")
            if self._key is not None:
                # A transcript's partition is its audio's, which the producer chose by this rule.
                numbers = [DefaultPartitioner()(self._key, numbers, numbers)]
            wanted[topic] = [TopicPartition(topic, number) for number in numbers]
        finals = wanted.pop(self._topics.final)
        partials = [partition for partitions in wanted.values() for partition in partitions]
        self._consumer.assign(finals + partials)
        if self._from_beginning:
            await self._consumer.seek_to_beginning(*finals)
        else:
            await self._consumer.seek_to_end(*finals)
        if partials:
            await self._consumer.seek_to_end(*partials)

    async def _stop(self) -> None:
        with suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._consumer.stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()


def _first_offset(event_id: str) -> int:
    """Offset of the stream's first record: what tells a stream from an earlier one of the same id."""
    offset = event_id.rpartition("/")[0].rpartition("-")[2]
    return int(offset) if offset.isdecimal() else 0
