"""Audio files, read as they are played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
from numpy.typing import NDArray

from wire.records import SAMPLE_RATES

SUFFIXES = (".wav", ".flac", ".ogg")


class UnsupportedAudio(ValueError):
    """A file that cannot be played; the text says which and why."""


class AudioFile:
    """A WAV, FLAC or OGG file with its own sample rate and channels; a context manager.

    Raises UnsupportedAudio if it is not such a file, or at a rate that the contract does not have.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = soundfile.SoundFile(path)
        except (soundfile.LibsndfileError, OSError) as error:
            raise UnsupportedAudio(f"{path}: {getattr(error, 'error_string', error)}") from error
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames: int = self._file.frames
        if self.sample_rate not in SAMPLE_RATES:
            self.close()
            rates = ", ".join(map(str, SAMPLE_RATES))
            raise UnsupportedAudio(f"{path}: sample rate {self.sample_rate} Hz; it must be one of {rates}")

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate

    def blocks(self, frames: int) -> Iterator[NDArray[np.float32]]:
        """Float samples in -1 to 1, [frames, channels], the last block shorter; exact for 16 and 24 bits.

        Raises UnsupportedAudio if the file is damaged.
        """
        # The binding seeks after every read, which in FLAC costs as much as decoding: a second at a time.
        while len(second := self._read(frames * -(-self.sample_rate // frames))):
            for start in range(0, len(second), frames):
                yield second[start : start + frames]

    def _read(self, frames: int) -> NDArray[np.float32]:
        try:
            block: NDArray[np.float32] = self._file.read(frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UnsupportedAudio(f"{self.path}: {error.error_string}") from error
        return block

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
