"""Workers that start at once: forked from a process that has imported all that a worker imports, and nothing else.

Most of a worker's start is `import nemo`. `with Zygote() as zygote: LocalWorker(..., zygote=zygote)` pays for it once.
The zygote has no model, no thread of Python's and no open connection, so that a fork of it is a worker like any other;
its workers end with it, and it ends with the process that started it (see guard.py).
"""

import ctypes
import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from deploy import guard

ROOT = Path(__file__).parents[1]
IMPORTED = ("nemo.collections.asr", "worker.service", "worker.engine.build", "worker.engine.model")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Forked:
    """A running worker; used like a `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, pid: int, grace_s: float) -> None:
        self.pid = pid
        self._connection = connection
        self._grace_s = grace_s
        self._code: int | None = None

    @property
    def returncode(self) -> int | None:
        """As in `subprocess`: None while it runs, -N when signal N ended it."""
        return self.poll()

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self._code is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0)
            with self._connection, suppress(ConnectionError):
                report = self._connection.recv(64)
            # without a report the zygote was killed, and the worker with it
            self._code = int(report) if report else -signal.SIGKILL
        return self._code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after the grace time; returns the return code."""
        self.terminate()
        with suppress(subprocess.TimeoutExpired):
            return self.wait(self._grace_s)
        self.kill()
        return self.wait()


class Zygote:
    """Starts in the background; the first `fork` waits until all is imported. Ends its workers when closed."""

    def __init__(self, start_timeout_s: float = 180.0) -> None:
        self._timeout = start_timeout_s
        self._process: guard.Guarded | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="trunkline-zygote-")
        self._socket = Path(self._directory.name) / "socket"
        self.log_file = Path(self._directory.name) / "zygote.log"

    def start(self) -> None:
        with self.log_file.open("ab") as output:
            self._process = guard.run(
                [sys.executable, "-m", "deploy.zygote", str(self._socket)],
                stdout=output,
                stderr=output,
                cwd=ROOT,
                remove=[self._directory.name],
            )

    def fork(self, argv: Sequence[str], env: Mapping[str, str], output: str | Path, grace_s: float = 30.0) -> Forked:
        """A worker with these arguments and nothing but this environment; what it writes is appended to `output`.

        Raises RuntimeError with the zygote's log if it does not answer in time.
        """
        connection = self._connect()
        request = {"argv": list(argv), "env": dict(env), "output": str(output), "cwd": os.getcwd()}
        with connection.makefile("rw") as lines:
            lines.write(json.dumps(request) + "\n")
            lines.flush()
            pid = int(lines.readline())
        return Forked(connection, pid, grace_s)

    def close(self) -> None:
        """End the zygote; workers that still run are killed."""
        if self._process is not None:
            self._process.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> socket.socket:
        assert self._process is not None, "the zygote was not started"
        deadline = time.monotonic() + self._timeout
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._socket))
                return connection
            except OSError:
                connection.close()
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = self.log_file.read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the zygote does not answer. The end of its log:\n{log}")
            time.sleep(0.05)


def _serve(path: str) -> None:
    """Fork a worker for each connection, and say on it how the worker ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # what is there now stays shared: no collection of a worker's touches it
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        while True:
            ready, _, _ = select.select([listener.fileno(), wake], [], [])
            if listener.fileno() in ready:
                connection, _ = listener.accept()
                with connection.makefile("r") as lines:
                    line = lines.readline()
                if not line:  # who asked has gone
                    connection.close()
                    continue
                request = json.loads(line)
                zygote, pid = os.getpid(), os.fork()
                if pid == 0:
                    _become(request, zygote, [listener, connection, *running.values()], [wake, waker])
                running[pid] = connection
                connection.sendall(b"%d\n" % pid)
            if wake in ready:
                os.read(wake, 256)
                _report(running)


def _report(running: dict[int, socket.socket]) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            with running.pop(pid) as connection, suppress(OSError):
                connection.sendall(b"%d" % os.waitstatus_to_exitcode(status))


def _become(
    request: dict[str, object], zygote: int, sockets: Sequence[socket.socket], pipes: Sequence[int]
) -> NoReturn:
    """Turn this fork into a worker; returns never."""
    code = 70
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != zygote:  # it went before the line above
            os._exit(1)
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for held in sockets:
            held.close()
        for pipe in pipes:
            os.close(pipe)
        output = os.open(str(request["output"]), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        os.chdir(str(request["cwd"]))
        os.environ.clear()
        os.environ.update(dict(request["env"]))  # type: ignore[call-overload]
        argv = [str(argument) for argument in request["argv"]]  # type: ignore[attr-defined]
        sys.argv = ["trunkline", *argv]
        logging.getLogger().handlers.clear()  # a library's; the worker logs as it does without
        importlib.reload(importlib.import_module("worker.failpoint"))  # it reads the environment
        from trunkline.cli import main

        code = main(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
