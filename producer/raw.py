"""Raw samples without a header, from a file or as they arrive on standard input."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from producer.audio import UnsupportedAudio, cut, split
from producer.encode import check_finite
from wire.records import BYTES_PER_SAMPLE, Encoding

log = logging.getLogger(__name__)

STDIN = Path("-")


@dataclass(frozen=True, slots=True)
class RawFormat:
    """What a header would say. Samples of several channels are interleaved, numbers little-endian."""

    encoding: Encoding = "pcm_s16le"
    sample_rate: int = 8000
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of every channel."""
        return BYTES_PER_SAMPLE[self.encoding] * self.channels

    def blocks(self, data: bytes, frames: int) -> Iterator[list[bytes]]:
        """Whole frames as payloads of `frames` samples, one for each channel; the last ones shorter."""
        width = BYTES_PER_SAMPLE[self.encoding]
        return cut(split(data, self.channels, width), frames * width) if data else iter(())

    def check(self, data: bytes, name: Path, first: int) -> bytes:
        """The frames as they are, from the `first` on. Raises UnsupportedAudio for floats that are no numbers."""
        if self.encoding == "pcm_f32le":
            try:
                for payload in split(data, self.channels, 4):
                    check_finite(np.frombuffer(payload, "<f4"), first)
            except ValueError as error:
                raise UnsupportedAudio(f"{name}: {error}") from error
        return data


class RawFile:
    """A regular file of raw samples, played like any other; a context manager. Raises UnsupportedAudio."""

    def __init__(self, path: Path, form: RawFormat) -> None:
        self.path = path
        self.form = form
        self.sample_rate, self.channels, self.encoding = form.sample_rate, form.channels, form.encoding
        self.warning = ""
        try:
            about = os.fstat(0) if path == STDIN else path.stat()
            if not stat.S_ISREG(about.st_mode):  # before it is opened: a pipe would wait for its writer
                raise UnsupportedAudio(f"{path}: not a regular file; read it as standard input: - < {path}")
            self._file: BinaryIO = os.fdopen(os.dup(0), "rb") if path == STDIN else path.open("rb")
        except OSError as error:
            raise UnsupportedAudio(f"{path}: {error.strerror}") from error
        self.frames = (about.st_size - self._file.tell()) // form.frame_bytes

    def blocks(self, frames: int) -> Iterator[Sequence[bytes]]:
        """Payloads of `frames` samples, one for each channel; the last ones shorter."""
        size = self.form.frame_bytes
        first = 0
        while data := self._file.read(frames * -(-self.sample_rate // frames) * size):
            yield from self.form.blocks(self.form.check(_whole(data, size, self.path), self.path, first), frames)
            first += len(data) // size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def stdin_is_live() -> bool:
    """Whether standard input is a pipe or a socket. Raises UnsupportedAudio for a terminal or nothing at all."""
    try:
        mode = os.fstat(0).st_mode
    except OSError as error:
        raise UnsupportedAudio(f"standard input: {error.strerror}") from error
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        return True
    if stat.S_ISREG(mode):
        return False
    raise UnsupportedAudio("standard input is neither a pipe nor a file: pipe raw samples into it")


async def live(form: RawFormat, frames: int) -> AsyncIterator[Sequence[bytes]]:
    """Payloads of `frames` samples from standard input as they come, one for each channel; at its end, the rest.

    Raises UnsupportedAudio for floats that are no numbers.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), _stdin())
    size = frames * form.frame_bytes
    held = b""
    first = 0
    try:
        while data := await reader.read(65536):
            held += data
            ready = len(held) // size * size
            for block in form.blocks(form.check(held[:ready], STDIN, first), frames):
                yield block
            held = held[ready:]
            first += ready // form.frame_bytes
        for block in form.blocks(form.check(_whole(held, form.frame_bytes, STDIN), STDIN, first), frames):
            yield block
    finally:
        transport.close()


def _stdin() -> Any:
    return os.fdopen(os.dup(0), "rb", buffering=0)


def _whole(data: bytes, size: int, path: Path) -> bytes:
    if over := len(data) % size:
        log.warning("%s: its last %d bytes are not a whole sample of %d and are left out", path, over, size)
    return data[: len(data) - over]
