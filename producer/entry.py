"""A record on its way to Kafka, and who is told what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[str, bytes]]


class Span(Protocol):
    """What follows a record for OpenTelemetry; ended when it is known what became of the record."""

    def set_attribute(self, key: str, value: str) -> None: ...

    def end(self) -> None: ...


class Sink(Protocol):
    """Whoever put a record in learns what became of it, each record once, in order."""

    def confirmed(self, end: int) -> None: ...

    def lost(self, position: int, reason: str) -> None: ...


class Entry:
    """A record that waits. Its audio is samples `position` to `end` of its stream (equal if it has none)."""

    __slots__ = ("deadline", "end", "headers", "key", "position", "sink", "span", "value")

    def __init__(
        self,
        sink: Sink,
        key: bytes,
        value: bytes,
        position: int,
        end: int,
        deadline: float,
        span: Span | None = None,
        headers: Headers = (),
    ) -> None:
        self.sink: Sink | None = sink  # None: it has been told already
        self.key = key
        self.value = value
        self.position = position
        self.end = end
        self.deadline = deadline
        self.span = span
        self.headers = headers

    def confirm(self) -> None:
        if self.sink is not None:
            self.sink.confirmed(self.end)
            if self.span is not None:
                self.span.end()

    def lose(self, reason: str) -> None:
        if self.sink is not None:
            self.sink.lost(self.position, reason)
            self.sink = None
            if self.span is not None:
                self.span.set_attribute("error.type", reason)
                self.span.end()
