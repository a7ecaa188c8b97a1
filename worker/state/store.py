"""What checkpoints are kept in."""

from collections.abc import Sequence
from typing import Protocol


class StoreUnavailable(Exception):
    """The store did not do it in time, or not at all; the text says which store and why."""


class StateStore(Protocol):
    """Bytes under keys that are written once.

    `get` gives exactly what was put, or None: never a part, never another key's. Each call ends within the store's
    deadline; all but `start` and `close` raise StoreUnavailable. A put that raised may have been done all the same.
    """

    durable: bool  # what is put is there for another worker

    async def start(self) -> None:
        """Begin; a store that does not answer is only logged."""

    async def put(self, key: str, data: bytes) -> None:
        """Keep `data`."""

    async def get(self, key: str) -> bytes | None:
        """What was put; None if it is no longer there."""

    async def delete(self, keys: Sequence[str]) -> None:
        """Forget; keys that are not there do not matter."""

    async def close(self) -> None:
        """End; nothing may be asked afterwards."""
