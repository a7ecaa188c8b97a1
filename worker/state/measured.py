"""A state store that is timed."""

import time
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from worker.state.store import StateStore, StoreUnavailable
from worker.telemetry.metrics import Metrics

T = TypeVar("T")


class MeasuredStore:
    """A `StateStore` that hands everything on to another one."""

    def __init__(self, store: StateStore, metrics: Metrics) -> None:
        self.durable = store.durable
        self._store = store
        self._metrics = metrics

    async def start(self) -> None:
        await self._store.start()

    async def put(self, key: str, data: bytes) -> None:
        await self._timed("put", self._store.put(key, data))

    async def get(self, key: str) -> bytes | None:
        return await self._timed("get", self._store.get(key))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._timed("delete", self._store.delete(keys))

    async def close(self) -> None:
        await self._store.close()

    async def _timed(self, operation: str, request: Awaitable[T]) -> T:
        began = time.monotonic()
        try:
            answer = await request
        except StoreUnavailable:
            self._metrics.store_errors.labels(operation).inc()
            raise
        self._metrics.store_request.labels(operation).observe(time.monotonic() - began)
        return answer
