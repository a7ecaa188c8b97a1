"""What the worker writes: finals, partials, rejected records.

One event is one MessagePack map; the fields of `Head` stand in the same map as the event's own. The wire name
of a field is its name here. Times are integer milliseconds of stream time, from the stream's first sample.
"""

from dataclasses import dataclass, field
from typing import Literal

from wire.records import Metadata

UtteranceReason = Literal["silence", "flush", "end", "idle", "max_length", "gap", "restarted"]
UTTERANCE_REASONS: tuple[UtteranceReason, ...] = (
    "silence",
    "flush",
    "end",
    "idle",
    "max_length",
    "gap",
    "restarted",
)
EndReason = Literal["end", "idle", "restarted"]
END_REASONS: tuple[EndReason, ...] = ("end", "idle", "restarted")


@dataclass(frozen=True, slots=True)
class Head:
    """What every event of a stream carries.

    id: see `wire.topics.event_id`. number: the event's number in the stream, from 0. model: id of the model.
    offsets: first and last offset of the input records that the event rests on, both included. The rest is
    the start's.
    """

    id: str
    stream: str
    number: int
    model: str
    offsets: tuple[int, int]
    call_id: str | None = None
    channel: str | None = None
    language: str | None = None
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Word:
    """One word: start and end in ms, confidence in 0..1."""

    text: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Utterance:
    """A finished piece of speech, and why it ended."""

    head: Head
    text: str
    words: tuple[Word, ...]
    start: int
    end: int
    reason: UtteranceReason


@dataclass(frozen=True, slots=True)
class Marker:
    """Answers the flush with id `flush_id`: all speech before `time` stands in earlier events."""

    head: Head
    flush_id: str
    time: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Audio from `start` to `end` never came."""

    head: Head
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The stream's last event, with totals. duration: ms of stream time; gap_ms: ms of it that never came."""

    head: Head
    reason: EndReason
    duration: int
    utterances: int
    words: int
    gap_ms: int


Final = Utterance | Marker | Gap | StreamEnd


@dataclass(frozen=True, slots=True)
class Partial:
    """The current hypothesis of an unfinished utterance, whose id and number the head already carries.

    stable: the prefix of `text` that will not change.
    """

    head: Head
    text: str
    stable: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that was not accepted. data: its first 64 KiB; size, sha256 (32 bytes): of all its bytes."""

    reason: str
    detail: str
    data: bytes
    size: int
    sha256: bytes
