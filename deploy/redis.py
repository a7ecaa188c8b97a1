"""A real Redis as a child process on a free loopback port, for the tests. It ends with the process that started it."""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy import guard


class RedisUnavailable(RuntimeError):
    """This machine cannot run the server; the text says what is missing."""


class LocalRedis:
    """One server: `with LocalRedis() as redis: ... redis.url`. Nothing is kept over a restart, but for the port.

    `settings` are further lines of redis.conf; with `tls-cert-file` among them the port takes TLS only. Starting
    raises RedisUnavailable without a `redis-server`, RuntimeError with its log if it does not come up.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, start_timeout_s: float = 20.0) -> None:
        found = shutil.which("redis-server")
        if found is None:
            raise RedisUnavailable("no `redis-server` on PATH")
        self._server = found
        self._settings = dict(settings or {})
        self._timeout = start_timeout_s
        self._process: guard.Guarded | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="trunkline-redis-"))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> guard.Guarded:
        """The running server. Raises RuntimeError when there is none."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError("Redis is not running")
        return self._process

    def start(self) -> None:
        """Return when a client can connect."""
        if self._process is not None and self._process.poll() is None:
            return
        settings = {
            "bind": "127.0.0.1",
            "port": "0" if self._tls else str(self.port),
            "dir": str(self.directory),
            "save": '""',
            "appendonly": "no",
        } | self._settings
        if self._tls:
            settings["tls-port"] = str(self.port)
        written = self.directory / "redis.conf"
        written.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        log = self.directory / "redis.log"
        with log.open("ab") as output:
            self._process = guard.run(
                [self._server, str(written)], stdout=output, stderr=subprocess.STDOUT, remove=[self.directory]
            )
        deadline = time.monotonic() + self._timeout
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Redis did not come up:\n{log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server in good order."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the server and delete its files."""
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

    @property
    def _tls(self) -> bool:
        return "tls-cert-file" in self._settings

    def _accepts(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False
