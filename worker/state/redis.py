"""Checkpoints in Redis: one key each, with a time to live."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from producer.reach import explain_tls
from worker.state.store import StoreUnavailable

log = logging.getLogger(__name__)

# More calls at once wait for each other; a handshake with TLS costs more than a call.
CONNECTIONS = 8


class RedisStore:
    """`url`: `redis://host:port/db`, or `rediss://` for TLS.

    username, password: of an ACL user, or the password alone. ca_file: certificates to trust, the system's if not
    given; cert_file, key_file: the client's certificate. ttl_s: keys are forgotten after so long. timeout_s: no call
    takes longer. Raises ValueError for what cannot be a configuration. The user needs the commands set, get, unlink
    and ping.
    """

    durable = True

    def __init__(
        self,
        url: str,
        *,
        username: str | None = None,
        password: str | None = None,
        ca_file: str | None = None,
        cert_file: str | None = None,
        key_file: str | None = None,
        ttl_s: int,
        timeout_s: float,
    ) -> None:
        self._ttl = ttl_s
        self._timeout = timeout_s
        options: dict[str, Any] = {"username": username, "password": password}
        tls = {"ssl_ca_certs": ca_file, "ssl_certfile": cert_file, "ssl_keyfile": key_file}
        if url.startswith("rediss://"):
            options |= tls
        elif any(tls.values()):
            raise ValueError("certificates are given, but the URL is not rediss://")
        given = {name: value for name, value in options.items() if value is not None}
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            protocol=2,  # one command less that the user must be allowed, and errors that say what is wrong
            retry=Retry(NoBackoff(), 0),  # whoever calls knows better when to come again
            **given,
        )
        self._client = Redis.from_pool(pool)
        kwargs = pool.connection_kwargs
        self._host = str(kwargs.get("host", "localhost"))
        self._name = f"Redis at {self._host}:{kwargs.get('port', 6379)}"

    async def start(self) -> None:
        try:
            async with self._deadline("ping"):
                await cast("Any", self._client.ping())
        except StoreUnavailable as error:
            log.warning("%s; checkpoints begin when it answers", error)

    async def put(self, key: str, data: bytes) -> None:
        async with self._deadline("set"):
            await self._client.set(key, data, ex=self._ttl)

    async def get(self, key: str) -> bytes | None:
        async with self._deadline("get"):
            return cast("bytes | None", await self._client.get(key))

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            async with self._deadline("unlink"):
                await self._client.unlink(*keys)

    async def close(self) -> None:
        try:
            async with self._deadline("close"):
                await self._client.aclose()
        except StoreUnavailable as error:
            log.warning("%s", error)

    @asynccontextmanager
    async def _deadline(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise StoreUnavailable(f"{self._name}: no answer to {what} in {self._timeout:g} s") from None
        except (RedisError, OSError) as error:
            said = explain_tls(error, self._name, self._host) or f"{self._name}: {what}: {error}"
            raise StoreUnavailable(said) from error
