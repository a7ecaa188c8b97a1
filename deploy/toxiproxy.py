"""A real toxiproxy as a child process on free loopback ports: faults between a client and a server, for the tests.

The server is built by Go, once, into a cache directory. It ends with the process that started it (see guard.py).
"""

import json
import logging
import os
import shutil
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from deploy.server import LocalServer, accepts, free_ports

log = logging.getLogger(__name__)

VERSION = "2.5.0"
_MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"


class ToxiproxyUnavailable(RuntimeError):
    """This machine cannot run the proxy; the text says what is missing."""


class LocalToxiproxy(LocalServer):
    """One proxy in front of `upstream` (`host:port`): `with LocalToxiproxy(redis_address) as proxy: ... proxy.address`.

    It passes everything on until a toxic is added. Raises ToxiproxyUnavailable without Go (and nothing in the cache).
    """

    def __init__(self, upstream: str, start_timeout_s: float = 20.0) -> None:
        self._server = fetch_server()
        super().__init__("toxiproxy", start_timeout_s)
        self._upstream = upstream
        self._api, proxied = free_ports(2)
        self.address = f"127.0.0.1:{proxied}"

    def start(self) -> None:
        super().start()
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

    def _toxic(self, kind: str, **attributes: int) -> None:
        self._ask("POST", "/proxies/one/toxics", {"name": kind, "type": kind, "attributes": attributes})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> None:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._api}{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    def _command(self) -> list[str]:
        return [str(self._server), "-host", "127.0.0.1", "-port", str(self._api)]

    def _answers(self) -> bool:
        return accepts(self._api)


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
