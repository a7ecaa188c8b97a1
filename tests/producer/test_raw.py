"""Raw samples from files and standard input through `trunkline produce`."""

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from producer.audio import UnsupportedAudio
from producer.raw import RawFile, RawFormat
from tests.producer.support import payload, read_all, streams
from tests.producer.test_cli import COMMAND, ROOT, run
from wire.records import BYTES_PER_SAMPLE, ENCODINGS, Audio

RNG = np.random.default_rng(2)


def interleaved(encoding: str, channels: int, frames: int) -> tuple[bytes, list[bytes]]:
    """Random frames, and each channel's bytes, by slicing and nothing else."""
    width = BYTES_PER_SAMPLE[encoding]
    data = RNG.bytes(frames * channels * width)
    if encoding == "pcm_f32le":  # any bytes will not do
        data = RNG.standard_normal(frames * channels).astype("<f4").tobytes()
    samples = [data[at : at + width] for at in range(0, len(data), width)]
    return data, [b"".join(samples[channel::channels]) for channel in range(channels)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_frames_are_split_into_channels_and_cut(tmp_path, encoding, channels):
    data, each = interleaved(encoding, channels, 20_050)
    (tmp_path / "a").write_bytes(data)
    with RawFile(tmp_path / "a", RawFormat(encoding, 8000, channels)) as file:
        assert file.frames == 20_050
        blocks = list(file.blocks(800))
    assert [b"".join(parts) for parts in zip(*blocks, strict=True)] == each
    assert [len(block[0]) // BYTES_PER_SAMPLE[encoding] for block in blocks] == [800] * 25 + [50]


def test_a_pipe_by_name_is_refused_with_the_way_to_read_it(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UnsupportedAudio, match=str(path)):
            RawFile(path, RawFormat())
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe"):
        with pytest.raises(UnsupportedAudio, match=f"- < {path}"):
            RawFile(path, RawFormat())


def test_floats_that_are_no_numbers_are_refused_by_name(tmp_path):
    sound = np.zeros((20_000, 2), "<f4")
    sound[17_000, 1] = np.inf
    sound.tofile(tmp_path / "a")
    with RawFile(tmp_path / "a", RawFormat("pcm_f32le", 8000, 2)) as file:
        with pytest.raises(UnsupportedAudio, match="a: audio's sample 17000 is inf"):
            list(file.blocks(800))


@pytest.mark.kafka
def test_floats_on_standard_input_that_are_no_numbers_end_the_call(kafka, topics):
    sound = np.zeros(30_000, "<f4")
    sound[25_000] = np.nan
    process = produce(kafka, topics, "--raw", "--encoding", "pcm_f32le", stdin=subprocess.PIPE)
    _, stderr = process.communicate(sound.tobytes(), timeout=60)
    assert process.returncode == 1
    assert stderr.decode().startswith("stdin: -: audio's sample 25000 is nan")
    assert set(payload(streams(kafka, topics.audio)["stdin"], 4)) <= {0}  # ended, with what came before


@pytest.mark.kafka
@pytest.mark.parametrize(("encoding", "rate"), [("mulaw", 8000), ("pcm_f32le", 48000)])
def test_a_stereo_file_goes_out_as_it_is(kafka, topics, tmp_path, encoding, rate):
    data, each = interleaved(encoding, 2, rate)
    (tmp_path / "call-5.raw").write_bytes(data + b"x")
    done = run(
        *(tmp_path / "call-5.raw", "--raw", "--encoding", encoding, "--sample-rate", rate, "--channels", 2),
        *("--bootstrap-servers", kafka, "--topic", topics.audio, "--speed", "max"),
    )
    assert done.returncode == 0
    assert "its last 1 bytes are not a whole sample" in done.stderr
    found = streams(kafka, topics.audio)
    assert sorted(found) == ["call-5/0", "call-5/1"]
    for channel, stream in enumerate(sorted(found)):
        assert (found[stream][0].encoding, found[stream][0].sample_rate) == (encoding, rate)
        assert payload(found[stream], BYTES_PER_SAMPLE[encoding]) == each[channel]


def produce(kafka, topics, *arguments, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, "--bootstrap-servers", kafka, "--topic", topics.audio, *map(str, arguments), "-"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.mark.kafka
def test_standard_input_is_sent_as_it_comes(kafka, topics):
    data, each = interleaved("pcm_s16le", 2, 16_037)
    process = produce(kafka, topics, "--raw", "--channels", 2, "--call-id", "desk-4", stdin=subprocess.PIPE)
    try:
        half = len(data) // 2 + 1  # inside a sample
        for at in range(0, half, 997):
            process.stdin.write(data[at : min(at + 997, half)])
            process.stdin.flush()
        deadline = time.monotonic() + 60
        whole = 2 * (half // 3200)  # records of 100 ms of both channels
        while sum(isinstance(read.record, Audio) for read in read_all(kafka, topics.audio)) < whole:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        stdout, stderr = process.communicate(data[half:], timeout=60)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (0, b"")
    assert stdout.decode().splitlines()[-1] == "1 calls, 2 streams, 4.0 s of audio: all confirmed"
    found = streams(kafka, topics.audio)
    assert sorted(found) == ["desk-4/0", "desk-4/1"]
    assert [payload(found[stream]) for stream in sorted(found)] == each


@pytest.mark.kafka
def test_ctrl_c_ends_a_live_call(kafka, topics):
    process = produce(kafka, topics, "--raw", "--encoding", "alaw", stdin=subprocess.PIPE)
    try:
        process.stdin.write(bytes(4100))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while len(read_all(kafka, topics.audio)) < 6:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        process.kill()
    records = streams(kafka, topics.audio)["stdin"]
    assert payload(records, 1) == bytes(4000)  # what fills no record yet was not sent


@pytest.mark.kafka
def test_standard_input_from_a_file_is_played_like_one(kafka, topics, tmp_path):
    data, (sound,) = interleaved("pcm_s16le", 1, 8000)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as file:
        process = produce(kafka, topics, "--raw", "--speed", 2, "--prefix", "x-", stdin=file)
        began = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert time.monotonic() - began > 0.5
    assert payload(streams(kafka, topics.audio)["x-stdin"]) == sound


def test_a_terminal_is_no_audio():
    _, there = pty.openpty()
    done = run("--raw", "-", stdin=there)
    assert done.returncode == 2
    assert "neither a pipe nor a file" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-"], "standard input needs --raw"),
        (["a.wav", "--sample-rate", "8000"], "--sample-rate is for --raw"),
        (["a.wav", "--channels", "2"], "--channels is for --raw"),
        (["--raw", "."], ". is a directory; with --raw name the files"),
        (["--raw", "-", "-"], "standard input can be played once"),
        (["--raw", "-", "--calls", "2"], "standard input can be played once"),
        (["--raw", "-", "--sample-rate", "8001"], "8001"),
        (["--raw", "missing.ul"], "missing.ul: no such file"),
        (["a.wav", "b.wav", "--call-id", "x"], "--call-id is for a single call"),
        (["a.wav", "--delivery-timeout", "0"], "'0' is not a positive number"),
        (["a.wav", "--call-id", ""], "--call-id has at least one character"),
        (["a.wav", "--queue-mb", "0"], "'0' is not a whole number"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
