"""Child processes that cannot outlive their parent, even one killed with SIGKILL.

`run()` starts a small guard process (this file, standard library only) and the guard starts the command. The
guard's stdin is a pipe that only the parent holds: when the parent is gone, however it went, the guard reads
end of file, ends the command's whole process group and removes the directories it was given.

The guard runs in a session of its own, so that Ctrl-C in a terminal reaches the parent alone and the parent
decides in which order its children stop.
"""

import argparse
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

GRACE_S = 5.0


class Guarded:
    """A running command under its guard; used like a `subprocess.Popen`.

    `pid` is the command's own process id, not the guard's.
    """

    def __init__(self, guard: subprocess.Popen[bytes], pid: int) -> None:
        self.pid = pid
        self._guard = guard

    @property
    def returncode(self) -> int | None:
        """As in `subprocess`: None while it runs, -N when signal N ended it."""
        return self.poll()

    def poll(self) -> int | None:
        return _as_signal(self._guard.poll())

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command and its guard. Raises subprocess.TimeoutExpired."""
        code = _as_signal(self._guard.wait(timeout))
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the command; the guard then kills the rest of its process group and ends."""
        self.send_signal(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after the grace time given to `run()`; returns the return code."""
        if self._guard.poll() is None:
            self._guard.terminate()
        return self.wait()


def run(
    argv: Sequence[str],
    *,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    grace_s: float = GRACE_S,
    remove: Sequence[str | Path] = (),
) -> Guarded:
    """Start `argv` under a guard; its stdin is empty.

    `remove`: directories that the guard deletes if the parent is gone; a parent that lives deletes its own.
    Raises FileNotFoundError when the command cannot be started.
    """
    read_end, write_end = os.pipe()
    command = [sys.executable, "-I", "-S", __file__, "--report", str(write_end), "--grace", str(grace_s)]
    for directory in remove:
        command += ["--remove", str(Path(directory).absolute())]
    try:
        guard = subprocess.Popen(
            [*command, "--", *argv],
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=env,
            cwd=cwd,
            pass_fds=[write_end],
            start_new_session=True,
        )
    finally:
        os.close(write_end)
    with os.fdopen(read_end) as report:
        pid = report.readline().strip()
    if not pid:
        guard.wait()
        raise FileNotFoundError(f"cannot start {argv[0]}")
    return Guarded(guard, int(pid))


def _as_signal(code: int | None) -> int | None:
    return 128 - code if code is not None and code > 128 else code


def _main() -> int:
    parser = argparse.ArgumentParser(description="Run a command that ends when this process's stdin does.")
    parser.add_argument("--report", type=int, required=True, help="descriptor to write the command's pid to")
    parser.add_argument("--grace", type=float, default=GRACE_S, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--remove", action="append", default=[], help="directory to delete on end of stdin")
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args()

    # A signal's number arrives as a byte on `wake`, so that one select waits for all there is to wait for.
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)

    try:
        child = subprocess.Popen(options.argv, stdin=subprocess.DEVNULL, process_group=0)
    except OSError as error:
        print(error, file=sys.stderr)
        return 127
    with os.fdopen(options.report, "w") as report, suppress(BrokenPipeError):
        report.write(f"{child.pid}\n")

    orphaned = _wait(child, wake)
    if child.poll() is None:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(options.grace)
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    code = child.wait()
    if orphaned:
        for directory in options.remove:
            shutil.rmtree(directory, ignore_errors=True)
    return code if code >= 0 else 128 - code


def _wait(child: "subprocess.Popen[bytes]", wake: int) -> bool:
    """Return when the command has ended, a signal asks for its end, or the parent is gone (then True)."""
    while child.poll() is None:
        ready, _, _ = select.select([0, wake], [], [])
        if 0 in ready and not os.read(0, 1):
            return True
        if wake in ready and any(number != signal.SIGCHLD for number in os.read(wake, 256)):
            return False
    return False


if __name__ == "__main__":
    sys.exit(_main())
