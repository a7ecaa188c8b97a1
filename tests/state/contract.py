"""What holds for every state store, and how a test has one."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from worker.state.redis import RedisStore

DEADLINE_S = 1.0  # where a test waits for it
PATIENCE_S = 30.0  # elsewhere: a busy machine is no failure
TTL_S = 600


def redis_store(url, **given):
    return RedisStore(url, **{"ttl_s": TTL_S, "timeout_s": PATIENCE_S} | given)


@asynccontextmanager
async def started(store):
    await store.start()
    try:
        yield store
    finally:
        await store.close()


def with_store(make, test):
    """Run a test with a store that is started before and closed afterwards."""

    async def inner():
        async with started(make()) as store:
            await test(store)

    asyncio.run(inner())


class Contract:
    """A subclass makes the store: one for a store, one for each way in."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError

    def test_what_is_got_is_what_was_put_or_nothing(self, make):
        values = {
            "a": b"",
            "b": b"\0" * 100,
            "call:/0 \u00fc\n": bytes(range(256)) * 40_000,
            "d": b"short",
        }

        async def test(store):
            for key, data in values.items():
                await store.put(key, data)
            for key, data in values.items():
                assert await store.get(key) == (data if store.durable else None)

        with_store(make, test)

    def test_what_was_never_put_or_was_deleted_is_not_there(self, make):
        async def test(store):
            assert await store.get("never") is None
            await store.put("a", b"1")
            await store.put("b", b"2")
            await store.put("c", b"3")
            await store.delete(["a", "b", "never"])
            assert [await store.get(key) for key in "ab"] == [None, None]
            assert await store.get("c") == (b"3" if store.durable else None)
            await store.delete([])

        with_store(make, test)

    def test_many_at_once_are_never_mixed_up(self, make):
        async def test(store):
            async def one(number):
                key, data = f"k{number}", bytes([number]) * (1000 * number)
                await store.put(key, data)
                assert await store.get(key) in ([data] if store.durable else [None])
                await store.delete([key])
                assert await store.get(key) is None

            await asyncio.gather(*(one(number) for number in range(50)))

        with_store(make, test)

    def test_another_worker_finds_what_a_durable_store_was_given(self, make):
        async def inner():
            async with started(make()) as store:
                await store.put("a", b"1")
            async with started(make()) as store:
                assert await store.get("a") == (b"1" if store.durable else None)

        asyncio.run(inner())
