"""Forked workers behave as started ones do: arguments, environment, exit codes, signals, and an end with the parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.zygote import ROOT, Forked, Zygote
from tests.deploy.test_guard import gone

pytestmark = pytest.mark.slow

# Nobody listens there: such a worker waits for its broker until its time-out.
WAITING = ["worker", "--kafka.bootstrap_servers", "127.0.0.1:1", "--model.source", "none", "--telemetry.port", "0"]


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as started:
        yield started


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "log"


def waiting(zygote: Zygote, output: Path) -> Forked:
    worker = zygote.fork([*WAITING, "--kafka.request_timeout_ms", "60000"], {}, output)
    deadline = time.monotonic() + 20
    while not output.exists() or "metrics at" not in output.read_text():
        assert time.monotonic() < deadline
        assert worker.poll() is None
        time.sleep(0.02)
    return worker


def test_arguments_and_the_exit_code(zygote: Zygote, output: Path) -> None:
    worker = zygote.fork(["worker", "--model.look_ahead", "many"], {}, output)
    assert worker.wait(20) == worker.returncode == 2
    assert "model.look_ahead" in output.read_text()


def test_it_sees_its_own_environment_and_nothing_else(zygote: Zygote, output: Path) -> None:
    worker = zygote.fork(["worker"], {"TRUNKLINE_NONSENSE": "1"}, output)
    assert worker.wait(20) == 2
    assert "TRUNKLINE_NONSENSE" in output.read_text()
    assert zygote.fork(["worker"], {"HOME": "/"}, output.with_name("other")).wait(20) == 2
    assert "TRUNKLINE_NONSENSE" not in output.with_name("other").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_signal_that_ends_it_is_reported(number: int, zygote: Zygote, output: Path) -> None:
    worker = waiting(zygote, output)
    worker.send_signal(number)
    assert worker.wait(10) == -number


def test_it_stops_and_goes_on(zygote: Zygote, output: Path) -> None:
    worker = waiting(zygote, output)
    worker.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(0.5)
    worker.kill()
    assert worker.wait(10) == -signal.SIGKILL


def test_closing_the_zygote_ends_its_workers(tmp_path: Path) -> None:
    with Zygote() as zygote:
        worker = waiting(zygote, tmp_path / "log")
    assert gone(worker.pid)
    assert worker.wait(10) == -signal.SIGKILL


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from tests.deploy.test_zygote import Zygote, waiting
zygote = Zygote()
zygote.start()
worker = waiting(zygote, Path({str(tmp_path / "log")!r}))
print(worker.pid, flush=True)
worker.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    assert gone(pid)
