"""Files in, blocks out; samples to payload bytes."""

import os

import numpy as np
import pytest
import soundfile

from producer.audio import AudioFile, UnsupportedAudio, find
from producer.encode import encode
from tests.producer.support import damaged_flac
from wire.records import SAMPLE_RATES

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("name", "subtype"), [("a.wav", "PCM_16"), ("a.flac", "PCM_16"), ("a.wav", "FLOAT"), ("a.flac", "PCM_24")]
)
def test_16_bit_values_come_through_exactly_block_by_block(tmp_path, name, subtype):
    sound = RNG.integers(-32768, 32768, (2500, 2)).astype(np.int16)
    written = sound if subtype == "PCM_16" else sound / 32768
    soundfile.write(tmp_path / name, written, 16000, subtype=subtype)
    with AudioFile(tmp_path / name, "pcm_s16le") as file:
        assert (file.sample_rate, file.channels, file.frames) == (16000, 2, 2500)
        blocks = list(file.blocks(1000))
    assert [tuple(map(len, block)) for block in blocks] == [(2000, 2000), (2000, 2000), (1000, 1000)]
    assert joined(blocks) == [sound[:, channel].astype("<i2").tobytes() for channel in range(2)]


def joined(blocks):
    """Each channel's bytes."""
    return [b"".join(parts) for parts in zip(*blocks, strict=True)]


@pytest.mark.parametrize("rate", SAMPLE_RATES)
@pytest.mark.parametrize(
    ("name", "subtype", "encoding"),
    [
        ("a.wav", "PCM_16", "pcm_s16le"),
        ("a.wav", "PCM_U8", "pcm_s16le"),
        ("a.flac", "PCM_16", "pcm_s16le"),
        ("a.wav", "FLOAT", "pcm_f32le"),
        ("a.wav", "DOUBLE", "pcm_f32le"),
        ("a.wav", "ULAW", "mulaw"),
        ("a.wav", "ALAW", "alaw"),
    ],
)
def test_a_file_is_sent_as_what_it_is(tmp_path, name, subtype, encoding, rate):
    sound = RNG.integers(-128, 128, (rate + 77, 1)).astype(np.int16) << 8
    if subtype in ("FLOAT", "DOUBLE"):
        sound = RNG.uniform(-1, 1, (rate + 77, 1)).astype(np.float32)
    soundfile.write(tmp_path / name, sound, rate, subtype=subtype)
    with AudioFile(tmp_path / name) as file:
        assert (file.encoding, file.sample_rate) == (encoding, rate)
        (heard,) = joined(file.blocks(rate // 10))
    if encoding in ("mulaw", "alaw"):
        soundfile.write(tmp_path / "raw", sound, rate, format="RAW", subtype=subtype)
        assert heard == (tmp_path / "raw").read_bytes()
    else:
        assert heard == sound.astype("<i2" if encoding == "pcm_s16le" else "<f4").tobytes()


@pytest.mark.parametrize(("subtype", "encoding"), [("ULAW", "mulaw"), ("ALAW", "alaw")])
def test_g711_in_wav_comes_through_byte_by_byte_even_what_decodes_to_the_same(tmp_path, subtype, encoding):
    codes = RNG.integers(0, 256, (20_000, 2)).astype(np.uint8)
    codes[0] = 0x7F, 0xFF  # mu-law's two zeros
    soundfile.write(tmp_path / "a.wav", np.zeros((20_000, 2), np.int16), 8000, subtype=subtype)
    data = (tmp_path / "a.wav").read_bytes()
    silence = 2 * 20_000
    at = data.index(b"data") + 8
    (tmp_path / "a.wav").write_bytes(data[:at] + codes.tobytes() + data[at + silence :])
    assert soundfile.info(tmp_path / "a.wav").frames == 20_000
    with AudioFile(tmp_path / "a.wav") as file:
        assert file.encoding == encoding
        assert joined(file.blocks(800)) == [codes[:, 0].tobytes(), codes[:, 1].tobytes()]
    with AudioFile(tmp_path / "a.wav", "pcm_s16le") as file:
        expected = soundfile.read(tmp_path / "a.wav", dtype="int16")[0]
        assert joined(file.blocks(800)) == [expected[:, c].astype("<i2").tobytes() for c in range(2)]


def test_floats_that_are_no_numbers_are_refused_by_name(tmp_path):
    sound = np.zeros(30_000, np.float32)
    sound[20_000] = np.nan  # in the third second
    soundfile.write(tmp_path / "a.wav", sound, 8000, subtype="FLOAT")
    for encoding in (None, "pcm_s16le"):
        with (
            AudioFile(tmp_path / "a.wav", encoding) as file,
            pytest.raises(UnsupportedAudio, match=r"a\.wav: .*sample 20000 is nan"),
        ):
            list(file.blocks(800))


def test_ogg_is_read(tmp_path):
    soundfile.write(tmp_path / "a.ogg", np.sin(np.arange(8000) * 0.1) / 2, 8000)
    with AudioFile(tmp_path / "a.ogg") as file:
        assert sum(len(payload) for (payload,) in file.blocks(800)) == 16000


def test_a_rate_outside_the_contract_is_refused_by_name(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(10), 96000)
    with pytest.raises(UnsupportedAudio, match=r"a\.wav: sample rate 96000 Hz; it must be one of 8000, "):
        AudioFile(tmp_path / "a.wav")


def test_what_is_no_audio_is_refused_by_name(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"no audio at all")
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for a writer
    for path in (tmp_path / "a.wav", tmp_path / "missing.wav", tmp_path / "pipe.wav", tmp_path):
        with pytest.raises(UnsupportedAudio, match=path.name):
            AudioFile(path)


def test_a_damaged_file_is_an_error_not_an_early_end(tmp_path):
    damaged_flac(tmp_path / "a.flac")
    with AudioFile(tmp_path / "a.flac") as file, pytest.raises(UnsupportedAudio, match=r"a\.flac"):
        for _ in file.blocks(800):
            pass


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_a_wav_that_is_cut_off_is_read_with_a_warning(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", RNG.normal(0, 0.1, (80_000, 2)), 8000, subtype=subtype)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    with AudioFile(tmp_path / "cut.wav") as file, AudioFile(tmp_path / "a.wav") as whole:
        assert 39_000 < file.frames < 40_000
        assert file.warning.endswith("cut.wav: cut short: 49 % of the audio that its header promises is there")
        assert whole.warning == ""


@pytest.mark.parametrize("length", [0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_that_was_written_to_a_pipe_is_whole(tmp_path, length):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    for at in (4, 40):  # of the file and of its audio; nobody could go back and write them
        data[at : at + 4] = length.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(data)
    with AudioFile(tmp_path / "a.wav") as file:
        assert (file.frames, file.warning) == (8000, "")


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


def test_what_is_no_number_has_no_encoding():
    for bad in (np.nan, np.inf, -np.inf):
        for encoding in ("pcm_s16le", "pcm_f32le", "mulaw"):
            with pytest.raises(ValueError, match="sample 1 is"):
                encode(np.array([0.0, bad]), encoding)


def test_int16_becomes_float_in_scale():
    values = np.frombuffer(encode(np.array([-32768, 0, 16384], np.int16), "pcm_f32le"), "<f4")
    assert values.tolist() == [-1.0, 0.0, 0.5]
