"""Standard output and error as they may be: a terminal, a pipe whose reader goes, a full disk, or closed."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from rich.console import Console


def terminal() -> Console | None:
    """A console on standard output, if that is a terminal whose cursor can be moved. FORCE_COLOR makes no terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    console = Console(file=sys.stdout)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def tell(text: str) -> None:
    """A line on standard output; where it cannot be written, none from then on: what is sent matters more."""
    try:
        print(printable(text), flush=True)
    except OSError as error:
        mute(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            say(f"standard output: {error.strerror}")


def say(text: str) -> None:
    """A line on standard error, if that can be written."""
    if sys.stderr is None:  # print would take standard output
        return
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        mute(sys.stderr)


def mute(stream: TextIO) -> None:
    """Let a stream that cannot be written go nowhere; Python would try once more at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def printable(text: str) -> str:
    """Without control characters: names and texts come from others, and a terminal would obey them."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
