"""Audio payloads to float samples: linear PCM, and G.711 by table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wire.fields import WireError
from wire.records import BYTES_PER_SAMPLE, Encoding

Samples = NDArray[np.float32]


def sample_width(encoding: Encoding) -> int:
    """Bytes of one sample."""
    return BYTES_PER_SAMPLE[encoding]


def decode(payload: bytes, encoding: Encoding) -> Samples:
    """The payload's samples, float32 [n] in -1 to 1. Floats beyond full scale are clipped.

    Raises WireError: `payload_alignment` for a payload that ends inside a sample, `payload_not_finite` for
    floats that are NaN or infinite.
    """
    width = BYTES_PER_SAMPLE[encoding]
    if len(payload) % width:
        raise WireError(
            "payload_alignment",
            f"payload has {len(payload)} bytes; {encoding} takes a multiple of {width}",
            "payload",
        )
    if encoding == "pcm_s16le":
        return np.frombuffer(payload, "<i2") * np.float32(1 / 32768)
    if encoding == "pcm_f32le":
        return _floats(payload)
    return _G711[encoding].take(np.frombuffer(payload, np.uint8))


def _floats(payload: bytes) -> Samples:
    samples = np.frombuffer(payload, "<f4")
    finite = np.isfinite(samples)
    if not finite.all():
        where = int(finite.argmin())
        raise WireError(
            "payload_not_finite",
            f"payload's sample {where} is {samples[where]}; floats must be finite",
            "payload",
        )
    # Finite but huge values would overflow in the filters behind this.
    return samples.clip(-1.0, 1.0).astype(np.float32, copy=False)


def _mulaw_table() -> Samples:
    """ITU-T G.711, table 2: sign, 3 bits of segment, 4 of step, all inverted; 14-bit values scaled to 16."""
    code = ~np.arange(256, dtype=np.uint8)
    segment, step = (code >> 4) & 7, code & 15
    size = (((step.astype(np.int32) << 3) + 0x84) << segment) - 0x84
    return np.where(code & 0x80, -size, size).astype(np.float32) / np.float32(32768)


def _alaw_table() -> Samples:
    """ITU-T G.711, table 1: sign, 3 bits of segment, 4 of step, even bits inverted; 13 bits scaled to 16."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    segment, step = (code >> 4) & 7, code & 15
    size = (step.astype(np.int32) << 4) + 8
    size = np.where(segment > 0, (size + 0x100) << (np.maximum(segment, 1) - 1), size)
    return np.where(code & 0x80, size, -size).astype(np.float32) / np.float32(32768)


_G711: dict[Encoding, Samples] = {"mulaw": _mulaw_table(), "alaw": _alaw_table()}
