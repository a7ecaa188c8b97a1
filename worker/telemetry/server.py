"""/metrics, /healthz, /readyz and, from this machine only, /drain over HTTP, on a thread of their own."""

import socket
import threading
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A probe every second is not worth a line."""


class TelemetryServer:
    """`healthy` and `ready` return None, or the sentence that a failing probe answers with; `drain` begins a drain."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        healthy: Callable[[], str | None],
        ready: Callable[[], str | None],
        drain: Callable[[], object],
    ) -> None:
        self._metrics = make_wsgi_app(registry)
        self._probes = {"/healthz": healthy, "/readyz": ready}
        self._drain = drain
        kind = _Server6 if ":" in host else _Server
        self._server = make_server(host, port, self._answer, server_class=kind, handler_class=_Quiet)
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="telemetry", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            body: Iterable[bytes] = self._metrics(environ, start_response)
            return body
        if path == "/drain":
            status, answer = self._begin_drain(environ)
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{answer}\n".encode()]
        probe = self._probes.get(path)
        if probe is None:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"/metrics, /healthz, /readyz\n"]
        problem = probe()
        status = "200 OK" if problem is None else "503 Service Unavailable"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{problem or 'ok'}\n".encode()]

    def _begin_drain(self, environ: Any) -> tuple[str, str]:
        """Whoever may read metrics may not stop the worker."""
        if not ip_address(environ.get("REMOTE_ADDR", "0.0.0.0")).is_loopback:
            return "403 Forbidden", "only from the worker's own machine"
        if environ.get("REQUEST_METHOD") != "POST":
            return "405 Method Not Allowed", "POST begins a drain"
        self._drain()
        return "202 Accepted", "draining"
