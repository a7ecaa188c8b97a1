"""A real server as a child process on loopback ports, with its files in a directory of its own.

It ends with the process that started it, however that goes (see guard.py).
"""

import shutil
import socket
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy import guard

POLL_S = 0.02


class LocalServer(ABC):
    """A `with` block starts it and ends it. Files and ports stay the same over `stop`, `kill` and `start`.

    name: in messages and in the directory's name.
    """

    def __init__(self, name: str, start_timeout_s: float) -> None:
        self._name = name
        self._timeout = start_timeout_s
        self._process: guard.Guarded | None = None
        self.directory = Path(tempfile.mkdtemp(prefix=f"trunkline-{name.lower()}-"))

    @abstractmethod
    def _command(self) -> list[str]:
        """What to run; files that it needs are written by then."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether a client can connect."""

    @property
    def log_file(self) -> Path:
        return self.directory / "server.log"

    @property
    def pid(self) -> int:
        """Raises RuntimeError when it is not running."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self._name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Return when a client can connect. Raises RuntimeError with the end of the log if that is never."""
        if self._process is not None and self._process.poll() is None:
            return
        command = self._command()
        with self.log_file.open("ab") as output:
            self._process = guard.run(command, stdout=output, stderr=output, remove=[self.directory])
        deadline = time.monotonic() + self._timeout
        while not self._answers():
            code = self._process.poll()
            if code is not None or time.monotonic() > deadline:
                self.kill()
                what = f"ended with {code}" if code is not None else f"was not ready in {self._timeout:.0f} s"
                tail = "".join(self.log_file.read_text(errors="replace").splitlines(keepends=True)[-30:])
                raise RuntimeError(f"{self._name} {what}. The end of its log:\n{tail}")
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End it and delete its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def accepts(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def free_ports(count: int) -> list[int]:
    # All are held until all are known, so that no two are the same.
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
