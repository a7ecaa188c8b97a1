"""Keeps what the demo shows and measures of the transcripts that `trunkline.follow` reads."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from trunkline import follow
from wire import Partial, StreamEnd, Topics, Utterance


@dataclass(slots=True)
class Transcript:
    """One stream as its reader sees it."""

    channel: str = ""
    said: list[str] = field(default_factory=list)
    hypothesis: str = ""
    ended: bool = False

    @property
    def text(self) -> str:
        return " ".join(self.said)


class Follower:
    """Follows finals and partials of all streams from its start on.

    Delay is the time an event is read minus the Kafka timestamp of the record that completed its chunk, in ms.
    """

    def __init__(self, servers: str, topics: Topics) -> None:
        self.transcripts: dict[str, Transcript] = {}
        self._reader = follow.Follower(servers, topics)
        self._task: asyncio.Task[None] | None = None
        self._delays: list[tuple[bool, str, float]] = []  # of a final, stream, ms
        self._changed = asyncio.Event()

    def late(self, prefix: str = "", finals: bool = False) -> list[float]:
        """Delays, ms, of the partials (or finals) of the streams whose ids begin with `prefix`."""
        return [ms for final, stream, ms in self._delays if final == finals and stream.startswith(prefix)]

    async def start(self) -> None:
        """Raises FollowError."""
        await self._reader.__aenter__()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._reader.__aexit__(None, None, None)

    async def ended(self, streams: Iterable[str], timeout_s: float) -> None:
        """Return when all of `streams` have ended. Raises TimeoutError, FollowError."""
        wanted = set(streams)
        async with asyncio.timeout(timeout_s):
            while not all(s in self.transcripts and self.transcripts[s].ended for s in wanted):
                self._changed.clear()
                if self._task is not None and self._task.done():
                    self._task.result()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 1.0)

    async def _follow(self) -> None:
        while True:
            for told in await self._reader.next(1.0):
                self._take(told, time.time() * 1000)
            self._changed.set()

    def _take(self, told: follow.Told, now: float) -> None:
        event, head = told.event, told.event.head
        transcript = self.transcripts.setdefault(head.stream, Transcript())
        transcript.channel = head.channel or ""
        if told.input_ms is not None:
            self._delays.append((not isinstance(event, Partial), head.stream, now - told.input_ms))
        if isinstance(event, Partial):
            transcript.hypothesis = event.text
        elif isinstance(event, Utterance):
            transcript.said.append(event.text)
            transcript.hypothesis = ""
        elif isinstance(event, StreamEnd):
            transcript.ended = True
            transcript.hypothesis = ""
