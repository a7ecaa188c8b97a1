"""Audio files, read as payloads."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import soundfile

from producer.encode import encode
from wire.records import BYTES_PER_SAMPLE, SAMPLE_RATES, Encoding

SUFFIXES = (".wav", ".flac", ".ogg")

# libsndfile's names of what the wire has too; other integers of up to 16 bits are exact in pcm_s16le, and so is
# speech in the lossy and the longer formats, as far as a recogniser hears.
_OWN: dict[str, Encoding] = {"FLOAT": "pcm_f32le", "DOUBLE": "pcm_f32le", "ULAW": "mulaw", "ALAW": "alaw"}
_SIXTEEN_BITS = ("PCM_16", "PCM_S8", "PCM_U8", "ULAW", "ALAW")


# What programs that write to a pipe put for a length that they do not know: this or a little more.
UNKNOWN_LENGTH = 0x7FFF0000


class UnsupportedAudio(ValueError):
    """A file that cannot be played; the text says which and why."""


class Sound(Protocol):
    """Audio to be played: a context manager.

    frames: samples of a channel in all. warning: what its player should know; empty if nothing.
    """

    sample_rate: int
    channels: int
    encoding: Encoding
    frames: int
    warning: str

    def blocks(self, frames: int) -> Iterator[Sequence[bytes]]: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class AudioFile:
    """A WAV, FLAC or OGG file with its own sample rate and channels; a context manager.

    encoding: of the payloads; by default the file's own where the wire has it (mu-law, A-law, float), else
    pcm_s16le. Mu-law and A-law bytes come through as they are. A WAV that is shorter than its header says is read as
    far as it goes, with a `warning`. Raises UnsupportedAudio if it is not such a file, or at a rate that the contract
    does not have.
    """

    def __init__(self, path: Path, encoding: Encoding | None = None) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: a pipe would wait for its writer
                raise UnsupportedAudio(f"{path}: not a regular file; only --raw samples can be piped, into -")
            # libsndfile calls everything that opening may meet a system error
            self._file = soundfile.SoundFile(os.open(path, os.O_RDONLY), closefd=True)
        except soundfile.LibsndfileError as error:
            raise UnsupportedAudio(f"{path}: {error.error_string}") from error
        except OSError as error:
            raise UnsupportedAudio(f"{path}: {error.strerror}") from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames
        own = _OWN.get(self._file.subtype, "pcm_s16le")
        self.encoding: Encoding = encoding or own
        self._as_is = self.encoding == own and own in ("mulaw", "alaw")
        if self.sample_rate not in SAMPLE_RATES:
            self.close()
            rates = ", ".join(map(str, SAMPLE_RATES))
            raise UnsupportedAudio(f"{path}: sample rate {self.sample_rate} Hz; it must be one of {rates}")
        self.warning = self._cut_short()

    def _cut_short(self) -> str:
        """That a WAV's header promises more than there is, which libsndfile mends and tells in its log only."""
        found = re.search(r"^data : (\d+) \(should be (\d+)\)$", self._file.extra_info, re.MULTILINE)
        if found is None or int(found[1]) >= UNKNOWN_LENGTH:
            return ""
        is_there = 100 * int(found[2]) // int(found[1])
        return f"{self.path}: cut short: {is_there} % of the audio that its header promises is there"

    def blocks(self, frames: int) -> Iterator[Sequence[bytes]]:
        """Payloads of `frames` samples, one for each channel; the last ones shorter.

        Raises UnsupportedAudio if the file is damaged.
        """
        # About a second at a time: the binding seeks after every read, which in FLAC costs as much as decoding.
        read = self._read_bytes if self._as_is else self._read_samples
        whole = frames * -(-self.sample_rate // frames)
        width = BYTES_PER_SAMPLE[self.encoding]
        while (second := read(whole)) and second[0]:
            yield from cut(second, frames * width)

    def _read_samples(self, frames: int) -> list[bytes]:
        kind = "int16" if self._file.subtype in _SIXTEEN_BITS else "float32"
        first = self._file.tell()
        try:
            block = self._file.read(frames, dtype=kind, always_2d=True)
            return [encode(np.ascontiguousarray(block[:, c]), self.encoding, first) for c in range(self.channels)]
        except soundfile.LibsndfileError as error:
            raise UnsupportedAudio(f"{self.path}: {error.error_string}") from error
        except ValueError as error:
            raise UnsupportedAudio(f"{self.path}: {error}") from error

    def _read_bytes(self, frames: int) -> list[bytes]:
        # libsndfile can read bytes undecoded, but its Python binding has no public name for it. Decoding and encoding
        # again would do but for mu-law's two zeros.
        data = bytearray(frames * self.channels)
        pointer: Any = soundfile._ffi.from_buffer(data)
        read = soundfile._snd.sf_read_raw(self._file._file, pointer, len(data))
        return split(bytes(data[:read]), self.channels, 1)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def cut(payloads: Sequence[bytes], size: int) -> Iterator[list[bytes]]:
    """Equally long payloads of several channels in pieces of `size` bytes; the last ones shorter."""
    for start in range(0, len(payloads[0]), size):
        yield [payload[start : start + size] for payload in payloads]


def split(frames: bytes, channels: int, width: int) -> list[bytes]:
    """Interleaved samples of `width` bytes, as one payload for each channel."""
    if channels == 1:
        return [frames]
    samples = np.frombuffer(frames, np.uint8).reshape(-1, channels, width)
    return [samples[:, channel].tobytes() for channel in range(channels)]


def find(paths: list[Path]) -> list[Path]:
    """The files named, and those with a known suffix in the directories named and below, sorted.

    Raises UnsupportedAudio for a path that does not exist or a directory without audio.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            if not path.exists():
                raise UnsupportedAudio(f"{path}: no such file or directory")
            found.append(path)
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not inside:
            raise UnsupportedAudio(f"{path}: no file that ends in {', '.join(SUFFIXES)}")
        found += inside
    return found
