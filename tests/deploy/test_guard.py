import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy import guard

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
# Does not end on SIGTERM, and has a child of its own.
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n",
]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(*pids: int, within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(alive(pid) for pid in pids)


def first_line(path: Path, within_s: float = 10.0) -> str:
    deadline = time.monotonic() + within_s
    while not path.read_text().endswith("\n") and time.monotonic() < deadline:
        time.sleep(0.02)
    return path.read_text().strip()


def test_the_return_code_is_the_commands_own():
    assert guard.run([sys.executable, "-c", "raise SystemExit(7)"]).wait(10) == 7


def test_a_signal_that_ends_the_command_is_its_return_code():
    child = guard.run(SLEEP, stdout=subprocess.DEVNULL)
    assert child.poll() is None
    child.kill()
    assert child.wait(10) == -signal.SIGKILL
    assert gone(child.pid)


def test_stop_kills_a_command_that_ignores_sigterm_and_its_children(tmp_path):
    with (tmp_path / "out").open("wb") as out:
        child = guard.run(STUBBORN, stdout=out, grace_s=0.3)
    grandchild = int(first_line(tmp_path / "out"))
    assert alive(grandchild)
    assert child.stop() == -signal.SIGKILL
    assert gone(child.pid, grandchild)


def test_a_command_that_does_not_exist_is_an_error_at_once():
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        guard.run(["no-such-command"], stderr=subprocess.DEVNULL)


def test_a_parent_killed_with_sigkill_leaves_no_process_and_no_directory(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    out = tmp_path / "out"
    script = (
        "import sys, time\n"
        "from deploy import guard\n"
        "out = open(sys.argv[1], 'wb')\n"
        "child = guard.run(sys.argv[3:], stdout=out, grace_s=0.3, remove=[sys.argv[2]])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(out), str(scratch), *STUBBORN],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    grandchild = int(first_line(out))
    parent.kill()
    parent.wait()
    assert gone(pid, grandchild)
    deadline = time.monotonic() + 5
    while scratch.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not scratch.exists()
