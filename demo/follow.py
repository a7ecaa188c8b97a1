"""Reads transcripts as a consumer of the project would, and keeps what the demo shows and measures."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, TopicPartition

from wire import Final, Partial, StreamEnd, Topics, Utterance, decode_final, decode_partial
from wire.topics import HEADER_INPUT_TIMESTAMP


@dataclass(slots=True)
class Transcript:
    """One stream as its reader sees it."""

    channel: str = ""
    said: list[str] = field(default_factory=list)
    hypothesis: str = ""
    ended: bool = False
    number: int = -1  # of the last final

    @property
    def text(self) -> str:
        return " ".join(self.said)


class Follower:
    """Follows finals (`read_committed`) and partials of all streams from the topics' start.

    Delay is the time an event is read minus the Kafka timestamp of the record that completed its chunk, in ms.
    """

    def __init__(self, servers: str, topics: Topics, partitions: int) -> None:
        self._servers = servers
        self._topics = topics
        self._partitions = partitions
        self._tasks: list[asyncio.Task[None]] = []
        self._consumers: list[AIOKafkaConsumer] = []
        self.transcripts: dict[str, Transcript] = {}
        self._delays: list[tuple[str, str, float]] = []  # topic, stream, ms
        self.changed = asyncio.Event()

    def late(self, prefix: str = "", finals: bool = False) -> list[float]:
        """Delays, ms, of the partials (or finals) of the streams whose ids begin with `prefix`."""
        wanted = self._topics.final if finals else self._topics.partial
        return [ms for topic, stream, ms in self._delays if topic == wanted and stream.startswith(prefix)]

    async def start(self) -> None:
        for topic in (self._topics.final, self._topics.partial):
            consumer = AIOKafkaConsumer(
                bootstrap_servers=self._servers,
                isolation_level="read_committed",
                auto_offset_reset="earliest",
                fetch_max_wait_ms=100,
            )
            consumer.assign([TopicPartition(topic, number) for number in range(self._partitions)])
            await consumer.start()
            self._consumers.append(consumer)
            self._tasks.append(asyncio.create_task(self._follow(consumer)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for consumer in self._consumers:
            await consumer.stop()

    async def ended(self, streams: Iterable[str], timeout_s: float) -> None:
        """Return when all of `streams` have ended. Raises TimeoutError."""
        wanted = set(streams)
        async with asyncio.timeout(timeout_s):
            while not all(s in self.transcripts and self.transcripts[s].ended for s in wanted):
                self.changed.clear()
                for task in self._tasks:
                    if task.done():
                        task.result()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.changed.wait(), 1.0)

    async def _follow(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            now = time.time() * 1000
            sent = next(int(v) for k, v in record.headers if k == HEADER_INPUT_TIMESTAMP)
            self._delays.append((record.topic, record.key.decode(), now - sent))
            if record.topic == self._topics.partial:
                self._partial(decode_partial(record.value))
            else:
                self._final(decode_final(record.value))
            self.changed.set()

    def _partial(self, event: Partial) -> None:
        transcript = self._of(event)
        # the two topics are not ordered against each other: a late partial shows what is final already
        if event.head.number > transcript.number:
            transcript.hypothesis = event.text

    def _final(self, event: Final) -> None:
        transcript = self._of(event)
        transcript.number = event.head.number
        if isinstance(event, Utterance):
            transcript.said.append(event.text)
            transcript.hypothesis = ""
        elif isinstance(event, StreamEnd):
            transcript.ended = True
            transcript.hypothesis = ""

    def _of(self, event: Final | Partial) -> Transcript:
        transcript = self.transcripts.setdefault(event.head.stream, Transcript())
        transcript.channel = event.head.channel or ""
        return transcript
