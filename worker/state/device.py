"""No store: a stream's state lives on the device only, and a stream resumes by replay from its first record."""

from collections.abc import Sequence


class DeviceStore:
    """Keeps nothing."""

    durable = False

    async def start(self) -> None:
        pass

    async def put(self, key: str, data: bytes) -> None:
        pass

    async def get(self, key: str) -> bytes | None:
        return None

    async def delete(self, keys: Sequence[str]) -> None:
        pass

    async def close(self) -> None:
        pass
