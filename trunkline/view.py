"""Transcript events for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from producer.output import printable
from trunkline.follow import Event
from wire import Gap, Marker, Partial, StreamEnd, Utterance
from wire.events import Head

_TYPES: dict[type, str] = {
    Utterance: "utterance",
    Marker: "marker",
    Gap: "gap",
    StreamEnd: "end",
    Partial: "partial",
}


class View(Protocol):
    """Shows events; a context manager's worth of state is closed by `close`. Raises BrokenPipeError."""

    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """One object a line with the fields of docs/wire.md, absent ones left out; each line is flushed."""

    def show(self, event: Event) -> None:
        print(json.dumps(fields(event), ensure_ascii=False), flush=True)

    def close(self) -> None:
        pass


class Lines:
    """One line an event, for logs and pipes; a partial's begins its text with `~`."""

    def show(self, event: Event) -> None:
        if line := describe(event):
            print(f"{name(event.head)} {line}", flush=True)

    def close(self) -> None:
        pass


class Terminal:
    """Finals scroll; under them stands the current hypothesis of each stream that speaks, overwritten in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._speaking: dict[str, Text] = {}
        self._live = Live(console=console, refresh_per_second=10, transient=True, vertical_overflow="ellipsis")
        self._live.start()

    def show(self, event: Event) -> None:
        head = event.head
        self._speaking.pop(head.stream, None)
        line = describe(event)
        if isinstance(event, Partial):
            settled = len(event.stable)
            self._speaking[head.stream] = Text.assemble(
                (name(head), _color(head)),
                " ",
                (time(event.start), "dim"),
                " ",
                printable(event.text[:settled]),
                (printable(event.text[settled:]), "dim italic"),
            )
        # The ones that spoke last, as many as fit; before the final is printed, which draws them again below it.
        lines = list(self._speaking.values())[-max(1, self._console.height - 2) :]
        self._live.update(Text("\n").join(lines))
        if line and not isinstance(event, Partial):
            style = "" if isinstance(event, Utterance) else "yellow"
            self._console.print(Text.assemble((name(head), _color(head)), " ", (line, style)), soft_wrap=True)

    def close(self) -> None:
        self._live.stop()


def fields(event: Event) -> dict[str, Any]:
    """The event as a plain map: `type`, the head's fields and its own, as on the wire."""
    plain = asdict(event)
    head = plain.pop("head")
    return {"type": _TYPES[type(event)]} | {k: v for k, v in (head | plain).items() if v not in (None, {})}


def describe(event: Event) -> str:
    """The event in one line of printable characters, without its stream; empty for an utterance without words."""
    match event:
        case Utterance():
            return printable(f"{time(event.start)} {event.text}") if event.text else ""
        case Partial():
            return printable(f"{time(event.start)} ~ {event.text}")
        case Gap():
            return f"{time(event.start)} (gap: {(event.end - event.start) / 1000:.2f} s of audio never came)"
        case Marker():
            return printable(f"{time(event.time)} (flush {event.flush_id}: all before is final)")
        case StreamEnd():
            missing = f", {event.gap_ms / 1000:.2f} s never came" if event.gap_ms else ""
            why = f" ({event.reason})" if event.reason != "end" else ""
            return f"{time(event.duration)} (end{why}: {event.utterances} utterances, {event.words} words{missing})"


def name(head: Head) -> str:
    """The stream's id, with its channel's name if it has one that says more."""
    stream = printable(head.stream)
    channel = "" if head.channel is None or head.stream.endswith(f"/{head.channel}") else f" {printable(head.channel)}"
    return f"[{stream}{channel}]"


def time(ms: int) -> str:
    """Stream time as 1:02.50, with hours when there are any."""
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02}" if hours else f"{minutes}") + f":{rest / 1000:05.2f}"


def _color(head: Head) -> str:
    colors = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green")
    return colors[sum(head.stream.encode()) % len(colors)]
