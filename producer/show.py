"""What `trunkline produce` says while it plays: bars on a terminal, else a line for each call's end."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from producer.client import Producer
from producer.output import printable, say, tell, terminal
from producer.play import OnProgress, Source
from producer.play import Progress as CallProgress

# More bars than this do not fit a screen: then one bar stands for all calls.
MOST_BARS = 20
# A broker that answers does so in milliseconds; a pause of a leader's election is not worth a word.
SILENCE_S = 3.0


@contextmanager
def display(calls: Sequence[Source]) -> Iterator[OnProgress]:
    """What to call with each call's progress; shown until the context ends."""
    console = terminal()
    if console is None:
        yield _tell_ends
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.1f} of {task.total:.1f} s"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars, calls)


def log_to_stderr() -> None:
    """Our own warnings as plain lines. The client's are about attempts; what became of them is said by us."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines()])
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


async def watch(producer: Producer) -> None:
    """Say when Kafka stops answering, and when it answers again; until cancelled."""
    silent = False
    while True:
        await asyncio.sleep(0.5)
        waited = producer.silent_s
        if waited > SILENCE_S and not silent:
            mebibytes = producer.waiting_bytes / 2**20
            say(
                f"Kafka does not answer; {mebibytes:.1f} MiB wait for it, each record at most "
                f"{producer.delivery_timeout:g} s"
            )
            silent = True
        elif silent and waited < SILENCE_S / 2:
            say("Kafka answers again")
            silent = False


def _tell_ends(progress: CallProgress) -> None:
    if progress.done:
        state = "failed" if progress.error else "confirmed"
        if progress.dropped:
            state += f", {progress.dropped:.1f} s dropped"
        sent = progress.seconds - progress.dropped
        tell(f"{progress.source.call_id}: {sent:.1f} of {progress.total:.1f} s {state}")


class _Lines(logging.Handler):
    """A warning's text, and the traceback if there is one, on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())
        for part in traceback.format_exception(*record.exc_info) if record.exc_info else ():
            for line in part.splitlines():
                say(line)


class _Bars:
    """One bar a call, or one for all when they are many."""

    def __init__(self, bars: Progress, calls: Sequence[Source]) -> None:
        self._bars = bars
        self._each: dict[str, TaskID] = {}
        self._seen: dict[str, tuple[float, float]] = {}
        self._sum = (0.0, 0.0)
        if len(calls) <= MOST_BARS:
            self._each = {call.call_id: bars.add_task(_label(call.call_id), total=0.0) for call in calls}
        else:
            self._all = bars.add_task(f"{len(calls)} calls", total=0.0)

    def __call__(self, progress: CallProgress) -> None:
        call_id = progress.source.call_id
        if self._each:
            color = "red" if progress.error else "green" if progress.done else "default"
            self._bars.update(
                self._each[call_id],
                completed=progress.seconds,
                total=progress.total,
                description=f"[{color}]{_label(call_id)}",
            )
            return
        seconds, total = self._seen.get(call_id, (0.0, 0.0))
        self._seen[call_id] = progress.seconds, progress.total
        self._sum = self._sum[0] + progress.seconds - seconds, self._sum[1] + progress.total - total
        self._bars.update(self._all, completed=self._sum[0], total=self._sum[1])


def _label(call_id: str) -> str:
    return escape(printable(call_id))
