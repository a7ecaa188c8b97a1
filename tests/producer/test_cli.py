"""`trunkline produce` as its users run it: a process of its own."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.producer.support import payload, read_all, streams

ROOT = Path(__file__).parents[2]
CALLS = ROOT / "demo" / "calls"
COMMAND = [sys.executable, "-c", "import sys; from producer.cli import main; sys.exit(main(sys.argv[1:]))"]


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120, **options
    )


@pytest.mark.kafka
def test_a_directory_of_recorded_calls(kafka, topics):
    done = run(
        CALLS,
        *("--bootstrap-servers", kafka, "--topic", topics.audio, "--speed", "max", "--chunk-ms", 200),
        *("--channel-names", "agent,customer", "--metadata", "site=oslo", "--metadata", "queue=2"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].endswith("all confirmed")
    assert "\x1b" not in done.stdout

    found = streams(kafka, topics.audio)
    files = sorted(CALLS.glob("*.flac"))
    assert sorted(found) == sorted(f"{path.stem}/{index}" for path in files for index in range(2))
    for path in files:
        sound, rate = soundfile.read(path, dtype="int16")
        for index, name in enumerate(("agent", "customer")):
            records = found[f"{path.stem}/{index}"]
            assert payload(records) == sound[:, index].astype("<i2").tobytes()
            start = records[0]
            assert (start.call_id, start.channel, start.sample_rate) == (path.stem, name, rate)
            assert start.metadata == {"site": "oslo", "queue": "2"}


@pytest.mark.kafka
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_calls_in_good_order(kafka, topics, number, code):
    process = subprocess.Popen(
        [*COMMAND, str(CALLS), "--bootstrap-servers", kafka, "--topic", topics.audio],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(read_all(kafka, topics.audio)) < 100:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, stderr) == (
        code,
        "interrupted: ending the calls (once more stops at once)\n",
    )
    found = streams(kafka, topics.audio)
    assert len(found) == 2 * len(list(CALLS.glob("*.flac")))
    assert all(payload(records) for records in found.values())  # whole, with an end that knows the length


@pytest.mark.kafka
def test_a_terminal_shows_bars(kafka, topics, tmp_path):
    soundfile.write(tmp_path / "a[b].wav", np.zeros(8000), 8000)
    here, there = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, str(tmp_path), "--bootstrap-servers", kafka, "--topic", topics.audio, "--speed", "4"],
        cwd=ROOT,
        stdout=there,
        stderr=there,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(there)
    shown = b""
    try:
        while data := os.read(here, 65536):
            shown += data
    except OSError:
        pass  # how Linux says that the other end is closed
    finally:
        os.close(here)
    assert process.wait(30) == 0
    assert "a[b]" in shown.decode()
    assert "1.0 of 1.0 s" in shown.decode()
    assert "━" in shown.decode()


@pytest.mark.kafka
def test_a_missing_topic_is_exit_1_and_names_it(kafka):
    done = run(CALLS, "--bootstrap-servers", kafka, "--topic", "no-such-topic")
    assert done.returncode == 1
    assert "no-such-topic does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_broker_is_exit_1_and_names_it():
    done = run(CALLS, "--bootstrap-servers", "127.0.0.1:1")
    assert done.returncode == 1
    assert "cannot reach Kafka at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.wav"], "missing.wav: no such file"),
        ([ROOT / "pyproject.toml"], "pyproject.toml: "),
        ([], "FILE_OR_DIR"),
        ([CALLS, "--speed", "0"], "'0' is not a positive number or max"),
        ([CALLS, "--speed", "nan"], "'nan' is not"),
        ([CALLS, "--calls", "0"], "'0' is not a whole number"),
        ([CALLS, "--chunk-ms", "1001"], "'1001' is not a whole number from 10 to 1000"),
        ([CALLS, "--metadata", "novalue"], "'novalue' is not KEY=VALUE"),
        ([CALLS, "--encoding", "mp3"], "mp3"),
    ],
)
def test_wrong_usage_is_exit_2_and_says_what(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_documents_the_exit_codes():
    done = run("--help")
    assert done.returncode == 0
    assert "exit codes:" in done.stdout
    assert "not confirmed" in done.stdout
