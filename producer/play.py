"""Plays recordings and live audio as calls, many at once, at any pace."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

from producer.audio import AudioFile, Sound, UnsupportedAudio
from producer.call import WhenFull
from producer.client import DeliveryError, Producer
from producer.raw import STDIN, RawFile, RawFormat, live, stdin_is_live
from producer.stereo import StereoCall
from wire.codec import encode_key, encode_record
from wire.records import Encoding, Metadata, Options, Start

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be played as the call `call_id`; raw: what it holds, if it has no header. `-` is standard input."""

    call_id: str
    path: Path
    raw: RawFormat | None = None

    @property
    def is_live(self) -> bool:
        """Whether its audio comes at its own pace. Raises UnsupportedAudio."""
        return self.path == STDIN and self.raw is not None and stdin_is_live()

    def open(self, encoding: Encoding | None = None) -> Sound:
        """What it holds, if it is not live. Raises UnsupportedAudio."""
        return RawFile(self.path, self.raw) if self.raw else AudioFile(self.path, encoding)


@dataclass(slots=True)
class Progress:
    """How far a call is.

    seconds: audio played, of `total`; live audio has no total but what came. streams: one a channel. dropped: seconds
    of it that were dropped, since the queue was full, in the channel that lost the most. error: why it failed.
    """

    source: Source
    total: float = 0.0
    streams: int = 0
    seconds: float = 0.0
    dropped: float = 0.0
    done: bool = False
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Style:
    """How calls are played.

    speed: 1.0 is real time, None is as fast as Kafka takes it; live audio has its own. chunk_ms: audio of a record, at
    most 1000. encoding: what files with a header are sent as; None is the file's own where the wire has it.
    channel_names: of the first channels; further ones are named by number. when_full: see `Call`.
    """

    speed: float | None = 1.0
    chunk_ms: int = 100
    encoding: Encoding | None = None
    language: str | None = None
    channel_names: Sequence[str] = ()
    metadata: Metadata = field(default_factory=dict)
    options: Options = field(default_factory=Options)
    when_full: WhenFull = "wait"


OnProgress = Callable[[Progress], None]


def sources(
    files: Sequence[Path], calls: int | None = None, prefix: str = "", raw: RawFormat | None = None
) -> list[Source]:
    """One call a file, or `calls` of them, starting over with the first file; ids are unique file names."""
    made: dict[str, Source] = {}
    for path in islice(cycle(files), calls or len(files)):
        call_id = name = prefix + ("stdin" if path == STDIN else path.stem)
        numbers = count(2)
        while call_id in made:
            call_id = f"{name}-{next(numbers)}"
        made[call_id] = Source(call_id, path, raw)
    return list(made.values())


async def play(
    producer: Producer,
    calls: Sequence[Source],
    style: Style | None = None,
    on_progress: OnProgress = lambda progress: None,
    stop: asyncio.Event | None = None,
) -> list[Progress]:
    """Play all calls at once; return how each ended, in order.

    A call that fails has its `error` set and does not stop the others. `on_progress` is called after each piece and at
    a call's end; should it raise, that is logged, and it is called no more: showing must not end a call. Once `stop` is
    set every call ends with *end*, confirmed like the rest; so it does when this is cancelled. Raises WireError, before
    anything is sent, for ids or values that the contract does not allow.
    """
    style = style or Style()
    _check(calls, style)
    on_progress = _harmless(on_progress)
    stopped = asyncio.ensure_future((stop or asyncio.Event()).wait())
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                # Spread over one chunk: a thousand calls would otherwise speak in the same millisecond.
                group.create_task(_play(producer, source, style, index / len(calls), on_progress, stopped))
                for index, source in enumerate(calls)
            ]
    finally:
        stopped.cancel()
    return [task.result() for task in tasks]


def _check(calls: Sequence[Source], style: Style) -> None:
    """Raises WireError for what Kafka's other side would reject."""
    for channel in [None, *style.channel_names]:
        start = Start("0", style.encoding or "pcm_s16le", language=style.language, channel=channel)
        encode_record(replace(start, metadata=style.metadata, options=style.options))
    for source in calls:
        encode_key(f"{source.call_id}/0")


async def _play(
    producer: Producer,
    source: Source,
    style: Style,
    offset: float,
    on_progress: OnProgress,
    stopped: asyncio.Future[Any],
) -> Progress:
    progress = Progress(source)
    try:
        if source.is_live:
            assert source.raw is not None
            call = _call(producer, source, style, source.raw)
            async with call:
                await _unless(stopped, _send_live(call, source.raw, style, progress, on_progress))
        else:
            with source.open(style.encoding) as sound:
                progress.total = sound.frames / sound.sample_rate
                call = _call(producer, source, style, sound)
                progress.streams = len(call.calls)
                async with call:
                    await _unless(stopped, _send(call, sound, style, offset, progress, on_progress))
    except (DeliveryError, UnsupportedAudio) as error:
        progress.error = error
    except Exception as error:
        log.exception("call %s failed unforeseen", source.call_id)
        progress.error = error
    progress.done = True
    on_progress(progress)
    return progress


def _call(producer: Producer, source: Source, style: Style, sound: Sound | RawFormat) -> StereoCall:
    return StereoCall(
        producer,
        source.call_id,
        _names(style.channel_names, sound.channels),
        encoding=sound.encoding,
        sample_rate=sound.sample_rate,
        language=style.language,
        metadata=style.metadata,
        options=style.options,
        record_ms=style.chunk_ms,
        when_full=style.when_full,
    )


async def _unless(stopped: asyncio.Future[Any], speaking: Any) -> None:
    """Run `speaking` to its end, or until `stopped` is done."""
    task = asyncio.ensure_future(speaking)
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _send(
    call: StereoCall, sound: Sound, style: Style, offset: float, progress: Progress, on_progress: OnProgress
) -> None:
    """The file's audio, each chunk when its last sample would have been spoken."""
    clock = asyncio.get_running_loop().time
    chunk = max(1, style.chunk_ms * sound.sample_rate // 1000)
    begin = clock() + (offset * style.chunk_ms / 1000 / style.speed if style.speed else 0)
    sent = 0
    for block in sound.blocks(chunk):
        sent = min(sent + chunk, sound.frames)
        if style.speed:
            # From one beginning, so that what one chunk was late the next is not.
            await asyncio.sleep(begin + sent / sound.sample_rate / style.speed - clock())
        await call.send(block)
        _note(progress, call, sent / sound.sample_rate, on_progress)


async def _send_live(
    call: StereoCall, form: RawFormat, style: Style, progress: Progress, on_progress: OnProgress
) -> None:
    """Standard input's audio as it comes."""
    progress.streams = len(call.calls)
    async for block in live(form, max(1, style.chunk_ms * form.sample_rate // 1000)):
        await call.send(block)
        progress.total = call.calls[0].position / form.sample_rate
        _note(progress, call, progress.total, on_progress)


def _note(progress: Progress, call: StereoCall, seconds: float, on_progress: OnProgress) -> None:
    progress.seconds = seconds
    first = call.calls[0].start
    progress.dropped = max(each.dropped for each in call.calls) / first.sample_rate
    on_progress(progress)


def _harmless(on_progress: OnProgress) -> OnProgress:
    failed = False

    def call(progress: Progress) -> None:
        nonlocal failed
        if not failed:
            try:
                on_progress(progress)
            except Exception:
                failed = True
                log.exception("progress is not shown any more")

    return call


def _names(given: Sequence[str], channels: int) -> list[str | None]:
    if channels == 1:
        return [given[0] if len(given) == 1 else None]
    return [given[index] if index < len(given) else str(index) for index in range(channels)]
