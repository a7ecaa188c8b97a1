"""Transcripts out, read by librdkafka, which shares nothing with the worker."""

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, TypeVar

from confluent_kafka import Consumer, Message, TopicPartition

from demo import MODEL as MODEL
from tests.conftest import PARTITIONS
from wire import (
    Final,
    Gap,
    Marker,
    Partial,
    Rejected,
    StreamEnd,
    Topics,
    Utterance,
    Word,
    decode_final,
    decode_partial,
    decode_rejected,
)

ROOT = Path(__file__).parents[2]
CALLS = ROOT / "demo" / "calls"

E = TypeVar("E")


@dataclass(frozen=True)
class Out(Generic[E]):
    """An event and the Kafka record that carried it. `time`: its Kafka timestamp, ms. `received`: monotonic, s."""

    event: E
    key: bytes | None
    partition: int
    headers: Mapping[str, str]
    time: int
    received: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Heard:
    """All finals of one stream, in order; the stream has ended."""

    outs: Sequence[Out[Final]]

    @property
    def events(self) -> list[Final]:
        return [out.event for out in self.outs]

    @property
    def utterances(self) -> list[Utterance]:
        return [event for event in self.events if isinstance(event, Utterance)]

    @property
    def markers(self) -> list[Marker]:
        return [event for event in self.events if isinstance(event, Marker)]

    @property
    def gaps(self) -> list[Gap]:
        return [event for event in self.events if isinstance(event, Gap)]

    @property
    def words(self) -> list[Word]:
        return [word for utterance in self.utterances for word in utterance.words]

    @property
    def text(self) -> str:
        return " ".join(utterance.text for utterance in self.utterances)

    @property
    def end(self) -> StreamEnd:
        ends = [event for event in self.events if isinstance(event, StreamEnd)]
        assert len(ends) == 1
        assert self.events[-1] is ends[0]
        return ends[0]


class Outputs:
    """Follows a worker's three output topics from their start; finals and rejects as `read_committed` shows them."""

    def __init__(self, servers: str, topics: Topics) -> None:
        self.finals: list[Out[Final]] = []
        self.partials: list[Out[Partial]] = []
        self.rejected: list[Out[Rejected]] = []
        self._topics = topics
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": unique("reader"),
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
                "log_level": 2,
            }
        )
        names = (topics.final, topics.partial, topics.rejected)
        self._consumer.assign([TopicPartition(name, p, 0) for name in names for p in range(PARTITIONS)])

    def poll(self, seconds: float = 0.1) -> None:
        """Take in what is there, waiting so long for the first."""
        for message in self._consumer.consume(500, timeout=seconds):
            assert message.error() is None, message.error()
            if message.topic() == self._topics.final:
                self.finals.append(_out(message, decode_final(message.value())))
            elif message.topic() == self._topics.partial:
                self.partials.append(_out(message, decode_partial(message.value())))
            else:
                self.rejected.append(_out(message, decode_rejected(message.value())))

    def until(self, done: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
        """Poll until `done` holds. Fails after the time-out."""
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s: {what}"
            self.poll()

    def ended(self, streams: Collection[str], timeout_s: float = 60.0) -> dict[str, Heard]:
        """The finals of the streams, once all have ended."""
        self.until(lambda: not self.open(streams), f"the end of {', '.join(sorted(streams))}", timeout_s)
        return {stream: Heard([out for out in self.finals if out.event.head.stream == stream]) for stream in streams}

    def heard(self, stream: str, timeout_s: float = 60.0) -> Heard:
        return self.ended([stream], timeout_s)[stream]

    def refused(self, stream: str | None, count: int, timeout_s: float = 20.0) -> list[Out[Rejected]]:
        """The rejected records with this key, once there are `count`."""
        key = None if stream is None else stream.encode()

        def found() -> list[Out[Rejected]]:
            return [out for out in self.rejected if out.key == key]

        self.until(lambda: len(found()) >= count, f"{count} rejected records of {stream}", timeout_s)
        return found()

    def close(self) -> None:
        self._consumer.close()

    def open(self, streams: Collection[str]) -> set[str]:
        """Those that have not ended."""
        return set(streams) - {out.event.head.stream for out in self.finals if isinstance(out.event, StreamEnd)}


def _out(message: Message, event: E) -> Out[E]:
    headers = {name: value.decode() for name, value in message.headers() or []}
    return Out(event, message.key(), message.partition(), headers, message.timestamp()[1])


def unique(name: str) -> str:
    """A consumer group that nobody else has, on a cluster that may be shared."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def without_confidence(event: Final) -> Final:
    if not isinstance(event, Utterance):
        return event
    return replace(event, words=tuple(replace(word, confidence=0.0) for word in event.words))


def assert_same(event: Final, other: Final, tolerance: float = 0.01) -> None:
    """Equal but for confidences, which depend on the batch size in their last bits."""
    assert without_confidence(event) == without_confidence(other)
    if isinstance(event, Utterance) and isinstance(other, Utterance):
        for word, twin in zip(event.words, other.words, strict=True):
            assert abs(word.confidence - twin.confidence) <= tolerance
