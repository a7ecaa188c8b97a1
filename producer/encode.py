"""Samples to payload bytes."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from wire.records import Encoding

_SUBTYPES: dict[Encoding, str] = {"mulaw": "ULAW", "alaw": "ALAW"}


def encode(samples: NDArray[Any], encoding: Encoding, first: int = 0) -> bytes:
    """Mono samples [n], int16 or float in -1 to 1 (beyond that clipped), as a payload.

    first: index of the first one, for errors. Raises TypeError for other types, ValueError for other shapes and for
    floats that are not finite.
    """
    if samples.ndim != 1:
        raise ValueError(f"audio must have one dimension, found shape {samples.shape}; split channels first")
    if samples.dtype != np.int16 and samples.dtype.kind != "f":
        raise TypeError(f"audio must be int16 or float, found {samples.dtype}")
    check_finite(samples, first)
    if encoding == "pcm_f32le":
        scaled = samples if samples.dtype.kind == "f" else samples / np.float32(32768)
        return scaled.astype("<f4").tobytes()
    if samples.dtype.kind == "f":
        samples = np.rint(samples * 32768).clip(-32768, 32767).astype(np.int16)
    if encoding == "pcm_s16le":
        return samples.astype("<i2").tobytes()
    return _g711(encoding)[samples.view(np.uint16)].tobytes()


def check_finite(samples: NDArray[Any], first: int = 0) -> None:
    """Raises ValueError for a float that is no number; the worker would reject its record."""
    if samples.dtype.kind == "f" and not (finite := np.isfinite(samples)).all():
        where = int(finite.argmin())
        raise ValueError(f"audio's sample {first + where} is {samples[where]}; floats must be finite")


@cache
def _g711(encoding: Encoding) -> NDArray[np.uint8]:
    """The code of each 16-bit value, as libsndfile compresses it."""
    values = np.arange(65536, dtype=np.uint16).view(np.int16)
    file = io.BytesIO()
    soundfile.write(file, values, 8000, format="RAW", subtype=_SUBTYPES[encoding])
    return np.frombuffer(file.getvalue(), np.uint8)
