"""A real toxiproxy as a child process on free loopback ports: faults between a client and a server, for the tests.

The server is built by Go, once, into a cache directory. It ends with the process that started it (see guard.py).
"""

import json
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy import guard

log = logging.getLogger(__name__)

VERSION = "2.5.0"
_MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"


class ToxiproxyUnavailable(RuntimeError):
    """This machine cannot run the proxy; the text says what is missing."""


class LocalToxiproxy:
    """One proxy in front of `upstream` (`host:port`): `with LocalToxiproxy(redis_address) as proxy: ... proxy.address`.

    It passes everything on until a toxic is added. Starting raises ToxiproxyUnavailable without Go (and nothing in the
    cache), RuntimeError with its log if it does not come up.
    """

    def __init__(self, upstream: str, start_timeout_s: float = 20.0) -> None:
        self._upstream = upstream
        self._timeout = start_timeout_s
        self._server = fetch_server()
        self._process: guard.Guarded | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="trunkline-toxiproxy-"))
        with socket.socket() as api, socket.socket() as proxied:
            api.bind(("127.0.0.1", 0))
            proxied.bind(("127.0.0.1", 0))
            self._api = f"127.0.0.1:{api.getsockname()[1]}"
            self.address = f"127.0.0.1:{proxied.getsockname()[1]}"

    def start(self) -> None:
        """Return when a client can connect."""
        host, _, port = self._api.rpartition(":")
        log_file = self.directory / "toxiproxy.log"
        with log_file.open("ab") as output:
            self._process = guard.run(
                [str(self._server), "-host", host, "-port", port],
                stdout=output,
                stderr=subprocess.STDOUT,
                remove=[self.directory],
            )
        deadline = time.monotonic() + self._timeout
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(f"toxiproxy did not come up:\n{log_file.read_text(errors='replace')[-3000:]}")
            time.sleep(0.02)
        self._ask("POST", "/proxies", {"name": "one", "listen": self.address, "upstream": self._upstream})

    def latency(self, ms: int, jitter_ms: int = 0) -> None:
        """Every answer comes so much later."""
        self._toxic("latency", latency=ms, jitter=jitter_ms)

    def blackhole(self) -> None:
        """Connections stay open, and nothing comes back."""
        self._toxic("timeout", timeout=0)

    def reset(self) -> None:
        """Connections are reset, new ones too."""
        self._toxic("reset_peer", timeout=0)

    def heal(self) -> None:
        """Remove every toxic."""
        self._ask("POST", "/reset")

    def close(self) -> None:
        """End the proxy and delete its files."""
        if self._process is not None:
            self._process.stop()
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

    def _toxic(self, kind: str, **attributes: int) -> None:
        self._ask("POST", "/proxies/one/toxics", {"name": kind, "type": kind, "attributes": attributes})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self._api}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    def _accepts(self) -> bool:
        host, _, port = self._api.rpartition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return True
        except OSError:
            return False


def fetch_server() -> Path:
    """The server's executable; Go builds it the first time (a minute, 15 MB). Raises ToxiproxyUnavailable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trunkline" / f"toxiproxy-{VERSION}"
    server = cache / "server"
    if server.is_file():
        return server
    go = shutil.which("go")
    if go is None:
        raise ToxiproxyUnavailable(f"toxiproxy is not in {cache} and there is no `go` on PATH to build it")
    log.info("building toxiproxy %s with Go, once, into %s", VERSION, cache)
    cache.mkdir(parents=True, exist_ok=True)
    # Built beside the place and renamed: neither a second process nor a broken build shows half of it.
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as built:
        environment = os.environ | {"GOBIN": built}
        command = [go, "install", _MODULE]
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise ToxiproxyUnavailable(
                f"Go could not build toxiproxy {VERSION}:\n{(done.stdout + done.stderr)[-3000:]}"
            )
        os.replace(Path(built) / "server", server)
    return server
