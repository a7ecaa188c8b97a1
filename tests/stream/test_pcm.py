"""Payload decoding, against libsndfile's own G.711 and PCM readers."""

import io
import math
import struct

import numpy as np
import pytest
import soundfile

from wire.fields import WireError
from worker.stream.pcm import decode, sample_width


def _wav(payload: bytes, tag: int, bits: int) -> io.BytesIO:
    """A mono 8 kHz WAV file around raw bytes, so that libsndfile does the decoding."""
    width = bits // 8
    fmt = struct.pack("<HHIIHHH", tag, 1, 8000, 8000 * width, width, bits, 0)
    fact = struct.pack("<I", len(payload) // width)
    chunks = b"".join(
        name + struct.pack("<I", len(body)) + body
        for name, body in ((b"fmt ", fmt), (b"fact", fact), (b"data", payload))
    )
    return io.BytesIO(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)


@pytest.mark.parametrize(("encoding", "tag"), [("mulaw", 7), ("alaw", 6)])
def test_all_256_g711_codes_decode_as_libsndfile_reads_them(encoding, tag):
    codes = bytes(range(256))
    expected, _ = soundfile.read(_wav(codes, tag, 8), dtype="int16")
    assert np.array_equal(decode(codes, encoding) * 32768, expected)


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_written_by_libsndfile_comes_back_within_its_own_step(encoding, subtype):
    signal = (np.sin(np.arange(8000) * 0.05) * np.linspace(0, 0.9, 8000)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, signal, 8000, format="RAW", subtype=subtype)
    error = np.abs(decode(file.getvalue(), encoding) - signal)
    assert np.all(error <= np.maximum(np.abs(signal) * 2**-4, 2**-10))


def test_s16_is_little_endian_and_full_scale_is_one():
    assert decode(b"\x00\x80\xff\xff\x00\x00\x01\x00\xff\x7f", "pcm_s16le").tolist() == [
        -1.0,
        -(2**-15),
        0.0,
        2**-15,
        1 - 2**-15,
    ]


def test_f32_keeps_its_values_and_clips_what_is_beyond_full_scale():
    values = [0.0, -0.5, 1e-30, 1.0, -1.0, 1.5, -3e38]
    samples = decode(struct.pack("<7f", *values), "pcm_f32le")
    assert samples.tolist() == [0.0, -0.5, float(np.float32(1e-30)), 1.0, -1.0, 1.0, -1.0]


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le", "mulaw", "alaw"])
def test_result_is_writable_float32_of_one_value_a_sample(encoding):
    samples = decode(bytes(32), encoding)
    assert samples.dtype == np.float32
    assert len(samples) == 32 // sample_width(encoding)
    samples += 1  # a caller may work in place: neither the payload nor a table is shared


@pytest.mark.parametrize(("encoding", "size"), [("pcm_s16le", 1), ("pcm_s16le", 641), ("pcm_f32le", 6)])
def test_a_payload_that_ends_inside_a_sample_is_refused(encoding, size):
    with pytest.raises(WireError) as error:
        decode(bytes(size), encoding)
    assert error.value.reason == "payload_alignment"
    assert error.value.field == "payload"
    assert str(size) in str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_floats_that_are_not_finite_are_refused_with_their_place(value):
    with pytest.raises(WireError) as error:
        decode(struct.pack("<4f", 0.1, 0.2, value, 0.3), "pcm_f32le")
    assert error.value.reason == "payload_not_finite"
    assert "sample 2" in str(error.value)
