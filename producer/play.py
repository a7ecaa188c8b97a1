"""Plays audio files as calls, many at once, at any pace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, cycle, islice
from pathlib import Path

from producer.audio import AudioFile, UnsupportedAudio
from producer.call import StereoCall
from producer.client import DeliveryError, Producer
from wire.codec import encode_key, encode_record
from wire.records import Encoding, Metadata, Options, Start


@dataclass(frozen=True, slots=True)
class Source:
    """A file to be played as the call `call_id`."""

    call_id: str
    path: Path


@dataclass(slots=True)
class Progress:
    """How far a call is. seconds: audio sent, of `total`. streams: one a channel. error: why it failed."""

    source: Source
    total: float = 0.0
    streams: int = 0
    seconds: float = 0.0
    done: bool = False
    error: DeliveryError | UnsupportedAudio | None = None


@dataclass(frozen=True, slots=True)
class Style:
    """How calls are played.

    speed: 1.0 is real time, None is as fast as Kafka takes it. chunk_ms: audio of a record, at most 1000.
    channel_names: of the first channels; further ones are named by number.
    """

    speed: float | None = 1.0
    chunk_ms: int = 100
    encoding: Encoding = "pcm_s16le"
    language: str | None = None
    channel_names: Sequence[str] = ()
    metadata: Metadata = field(default_factory=dict)
    options: Options = field(default_factory=Options)


def sources(files: Sequence[Path], calls: int | None = None, prefix: str = "") -> list[Source]:
    """One call a file, or `calls` of them, starting over with the first file; ids are unique file names."""
    made: dict[str, Source] = {}
    for path in islice(cycle(files), calls or len(files)):
        call_id = name = prefix + path.stem
        numbers = count(2)
        while call_id in made:
            call_id = f"{name}-{next(numbers)}"
        made[call_id] = Source(call_id, path)
    return list(made.values())


async def play(
    producer: Producer,
    calls: Sequence[Source],
    style: Style | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[Progress]:
    """Play all calls at once; return how each ended, in order.

    A call that fails has its `error` set and does not stop the others. `on_progress` is called after each
    piece and at a call's end. Cancelling ends every call with *end*. Raises WireError, before anything is
    sent, for ids or values that the contract does not allow.
    """
    style = style or Style()
    _check(calls, style)
    async with asyncio.TaskGroup() as group:
        tasks = [
            # Spread over one chunk: a thousand calls would otherwise speak in the same millisecond.
            group.create_task(_play(producer, source, style, index / len(calls), on_progress))
            for index, source in enumerate(calls)
        ]
    return [task.result() for task in tasks]


def _check(calls: Sequence[Source], style: Style) -> None:
    """Raises WireError for what Kafka's other side would reject."""
    for channel in [None, *style.channel_names]:
        start = Start("0", style.encoding, language=style.language, channel=channel)
        encode_record(replace(start, metadata=style.metadata, options=style.options))
    for source in calls:
        encode_key(f"{source.call_id}/0")


async def _play(
    producer: Producer,
    source: Source,
    style: Style,
    offset: float,
    on_progress: Callable[[Progress], None],
) -> Progress:
    progress = Progress(source)
    try:
        with AudioFile(source.path) as file:
            progress.total, progress.streams = file.seconds, file.channels
            call = StereoCall(
                producer,
                source.call_id,
                _names(style.channel_names, file.channels),
                encoding=style.encoding,
                sample_rate=file.sample_rate,
                language=style.language,
                metadata=style.metadata,
                options=style.options,
                record_ms=style.chunk_ms,
            )
            async with call:
                await _send(call, file, style, offset, progress, on_progress)
    except (DeliveryError, UnsupportedAudio) as error:
        progress.error = error
    progress.done = True
    on_progress(progress)
    return progress


async def _send(
    call: StereoCall,
    file: AudioFile,
    style: Style,
    offset: float,
    progress: Progress,
    on_progress: Callable[[Progress], None],
) -> None:
    """The file's audio, each chunk when its last sample would have been spoken."""
    clock = asyncio.get_running_loop().time
    chunk = max(1, style.chunk_ms * file.sample_rate // 1000)
    begin = clock() + (offset * style.chunk_ms / 1000 / style.speed if style.speed else 0)
    sent = 0
    for block in file.blocks(chunk):
        sent += len(block)
        if style.speed:
            # From one beginning, so that what one chunk was late the next is not.
            await asyncio.sleep(begin + sent / file.sample_rate / style.speed - clock())
        await call.send(block)
        progress.seconds = sent / file.sample_rate
        on_progress(progress)


def _names(given: Sequence[str], channels: int) -> list[str | None]:
    if channels == 1:
        return [given[0] if len(given) == 1 else None]
    return [given[index] if index < len(given) else str(index) for index in range(channels)]
