"""Where the command's words go: pipes whose reader leaves, full disks, closed streams, no terminal."""

import os
import subprocess

import numpy as np
import pytest
import soundfile

from tests.producer.support import damaged_flac, payload, streams
from tests.producer.test_cli import COMMAND, ROOT, run

RNG = np.random.default_rng(3)
SECONDS = {"short": 0.2, "longer": 0.6, "longest": 1.0}


@pytest.fixture
def files(tmp_path):
    """Three mono recordings: name -> bytes of their samples."""
    made = {}
    for name, seconds in SECONDS.items():
        sound = RNG.integers(-9000, 9000, int(8000 * seconds)).astype("<i2")
        soundfile.write(tmp_path / f"{name}.wav", sound, 8000)
        made[name] = sound.tobytes()
    return made


def shell(line: str, kafka, topics, *paths, **environment) -> subprocess.CompletedProcess:
    """`produce` in a line of bash: `"$@"` is the command."""
    return subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, *map(str, paths), "--bootstrap-servers", kafka, "--topic", topics.audio],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("line", "stdout", "stderr"),
    [
        ('"$@" | head -1; exit ${PIPESTATUS[0]}', "short: 0.2 of 0.2 s confirmed\n", ""),
        ('"$@" >/dev/full', "", "standard output: No space left on device\n"),
        ('"$@" >&- 2>&-', "", ""),
    ],
    ids=["the reader leaves", "full", "closed"],
)
def test_calls_go_on_when_nobody_reads_of_them(kafka, topics, files, tmp_path, line, stdout, stderr):
    done = shell(line, kafka, topics, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, stdout, stderr)
    assert {name: payload(records) for name, records in streams(kafka, topics.audio).items()} == files


@pytest.mark.kafka
def test_no_colour_in_the_environment_makes_a_terminal_of_a_pipe(kafka, topics, files, tmp_path):
    done = shell('"$@"', kafka, topics, tmp_path, FORCE_COLOR="1", TTY_COMPATIBLE="1", TTY_INTERACTIVE="1")
    assert [*done.stdout.splitlines()][:3] == [f"{name}: {s} of {s} s confirmed" for name, s in SECONDS.items()]
    assert "\x1b" not in done.stdout


@pytest.mark.kafka
def test_names_of_files_are_shown_without_what_a_terminal_would_obey(kafka, topics, tmp_path):
    soundfile.write(tmp_path / "evil\x1b[2J.wav", np.zeros(800), 8000)
    damaged_flac(tmp_path / "worse\x1b[2J.flac")
    done = shell('"$@" --speed max', kafka, topics, tmp_path)
    assert "evil\ufffd[2J: 0.1 of 0.1 s confirmed\n" in done.stdout
    assert "worse\ufffd[2J" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    (tmp_path / "\x1b[2J.wav").touch()
    done = run(tmp_path / "\x1b[2J.wav")
    assert done.returncode == 2
    assert "\x1b" not in done.stderr


@pytest.mark.kafka
def test_a_file_that_is_damaged_further_in_is_exit_1_since_its_call_was_sent(kafka, topics, tmp_path):
    damaged_flac(tmp_path / "a.flac")
    done = shell('"$@" --speed max', kafka, topics, tmp_path / "a.flac")
    assert done.returncode == 1
    assert "a.flac: " in done.stderr
    assert 0 < len(payload(streams(kafka, topics.audio)["a"])) < 160_000


@pytest.mark.kafka
def test_a_recording_that_is_cut_off_is_said_once(kafka, topics, files, tmp_path):
    path = tmp_path / "longest.wav"
    path.write_bytes(path.read_bytes()[:8000])
    done = shell('"$@" --speed max --calls 3', kafka, topics, path)
    assert done.returncode == 0
    assert done.stderr == f"{path}: cut short: 49 % of the audio that its header promises is there\n"


@pytest.mark.kafka
def test_as_many_files_are_open_as_the_system_allows(kafka, topics, files, tmp_path):
    path = tmp_path / "short.wav"
    done = shell('ulimit -Sn 48; "$@" --calls 60', kafka, topics, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(streams(kafka, topics.audio)) == 60
    done = shell('ulimit -n 48; "$@" --calls 60', kafka, topics, path)
    assert done.returncode == 2
    assert "too many open files: 60 calls at once keep 60 files open" in done.stderr
    assert len(streams(kafka, topics.audio)) == 60  # nothing more was sent


def test_a_pipe_by_name_is_exit_2_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for arguments in ([tmp_path / "pipe.wav"], ["--raw", tmp_path / "pipe.wav"]):
        done = run(*arguments)
        assert done.returncode == 2
        assert "pipe.wav: not a regular file" in done.stderr
    line = f'cd "{ROOT}"; "$@" <(cat demo/calls/call-03.flac)'
    done = subprocess.run(["bash", "-c", line, "bash", *COMMAND], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "not a regular file" in done.stderr


def test_a_host_that_is_not_there_is_named_in_words():
    done = run(ROOT / "demo" / "calls" / "call-03.flac", "--bootstrap-servers", "nohost.invalid:9092")
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "trunkline produce: cannot reach Kafka at nohost.invalid:9092: "
            "nohost.invalid:9092: the host name cannot be resolved"
        ],
    )
