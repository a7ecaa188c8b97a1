"""Files in, blocks out; samples to payload bytes."""

import numpy as np
import pytest
import soundfile

from producer.audio import AudioFile, UnsupportedAudio, find
from producer.encode import encode

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.wav", "FLOAT"), ("a.flac", "PCM_24")]
)
def test_16_bit_values_come_through_exactly_block_by_block(tmp_path, name, subtype):
    sound = RNG.integers(-32768, 32768, (2500, 2)).astype(np.int16)
    written = sound if subtype == "PCM_16" else sound / 32768
    soundfile.write(tmp_path / name, written, 16000, subtype=subtype)
    with AudioFile(tmp_path / name) as file:
        assert (file.sample_rate, file.channels, file.frames) == (16000, 2, 2500)
        assert file.seconds == 2500 / 16000
        blocks = list(file.blocks(1000))
    assert [len(block) for block in blocks] == [1000, 1000, 500]
    joined = np.concatenate(blocks)
    for channel in range(2):
        assert encode(joined[:, channel], "pcm_s16le") == sound[:, channel].astype("<i2").tobytes()


def test_ogg_is_read(tmp_path):
    soundfile.write(tmp_path / "a.ogg", np.sin(np.arange(8000) * 0.1) / 2, 8000)
    with AudioFile(tmp_path / "a.ogg") as file:
        assert sum(map(len, file.blocks(800))) == 8000


def test_a_rate_outside_the_contract_is_refused_by_name(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(10), 96000)
    with pytest.raises(UnsupportedAudio, match=r"a\.wav: sample rate 96000 Hz; it must be one of 8000, "):
        AudioFile(tmp_path / "a.wav")


def test_what_is_no_audio_is_refused_by_name(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio at all")
    for path in (tmp_path / "a.wav", tmp_path / "missing.wav"):
        with pytest.raises(UnsupportedAudio, match=path.name):
            AudioFile(path)


def test_a_damaged_file_is_an_error_not_an_early_end(tmp_path):
    soundfile.write(tmp_path / "a.flac", RNG.normal(0, 0.1, 80_000), 8000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    (tmp_path / "a.flac").write_bytes(data)
    with AudioFile(tmp_path / "a.flac") as file, pytest.raises(UnsupportedAudio, match=r"a\.flac"):
        for _ in file.blocks(800):
            pass


def test_directories_stand_for_the_audio_below_them(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("b.wav", "a.FLAC", "deep/c.ogg", "notes.txt"):
        (tmp_path / name).touch()
    names = ["a.FLAC", "b.wav", "deep/c.ogg"]
    assert find([tmp_path]) == [tmp_path / name for name in names]
    assert find([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]  # named on purpose
    for bad in ("empty", "missing"):
        with pytest.raises(UnsupportedAudio, match=bad):
            find([tmp_path / bad])


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_g711_bytes_are_those_that_libsndfile_writes(tmp_path, encoding, subtype):
    sound = RNG.integers(-32768, 32768, 20_000).astype(np.int16)
    soundfile.write(tmp_path / "a.raw", sound, 8000, format="RAW", subtype=subtype)
    assert encode(sound, encoding) == (tmp_path / "a.raw").read_bytes()


def test_floats_beyond_full_scale_are_clipped_not_wrapped():
    samples = np.array([1.0, -1.0, 2.5, -7.0, 0.5])
    assert np.frombuffer(encode(samples, "pcm_s16le"), "<i2").tolist() == [32767, -32768, 32767, -32768, 16384]


def test_int16_becomes_float_in_scale():
    values = np.frombuffer(encode(np.array([-32768, 0, 16384], np.int16), "pcm_f32le"), "<f4")
    assert values.tolist() == [-1.0, 0.0, 0.5]
