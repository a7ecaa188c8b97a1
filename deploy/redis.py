"""A real Redis as a child process on a free loopback port, for the tests. It ends with the process that started it."""

import shutil
from collections.abc import Mapping

from deploy.server import LocalServer, accepts, free_ports


class RedisUnavailable(RuntimeError):
    """This machine cannot run the server; the text says what is missing."""


class LocalRedis(LocalServer):
    """One server: `with LocalRedis() as redis: ... redis.url`. Nothing is kept over a restart, but for the port.

    `settings` are further lines of redis.conf; with `tls-cert-file` among them the port takes TLS only. Raises
    RedisUnavailable without a `redis-server`.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, start_timeout_s: float = 20.0) -> None:
        found = shutil.which("redis-server")
        if found is None:
            raise RedisUnavailable("no `redis-server` on PATH")
        super().__init__("Redis", start_timeout_s)
        self._server = found
        self._settings = dict(settings or {})
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}/0"

    def _command(self) -> list[str]:
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
        return [self._server, str(written)]

    def _answers(self) -> bool:
        return accepts(self.port)

    @property
    def _tls(self) -> bool:
        return "tls-cert-file" in self._settings
