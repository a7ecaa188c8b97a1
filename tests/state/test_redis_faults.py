"""What the store does when a real Redis forgets, stops, hangs or is full."""

import asyncio
import os
import signal
import time

import pytest
from redis import Redis

from tests.state.contract import DEADLINE_S, PATIENCE_S, redis_store, with_store
from worker.state.store import StoreUnavailable


def test_keys_have_a_time_to_live(redis_server):
    async def test(store):
        await store.put("a", b"1")

    with_store(lambda: redis_store(redis_server.url, ttl_s=77), test)
    assert 70 < Redis.from_url(redis_server.url).ttl("a") <= 77


def test_flushall_leaves_nothing_and_breaks_nothing(redis_server):
    async def test(store):
        await store.put("a", b"1")
        Redis.from_url(redis_server.url).flushall()
        assert await store.get("a") is None
        await store.put("b", b"2")
        assert await store.get("b") == b"2"

    with_store(lambda: redis_store(redis_server.url), test)


def test_a_server_that_stops_is_reported_at_once_and_taken_again_when_it_is_back(redis_server):
    async def test(store):
        await store.put("a", b"1")
        redis_server.kill()
        for call in (store.put("b", b"2"), store.get("a"), store.delete(["a"])):
            with pytest.raises(StoreUnavailable, match=f"Redis at 127.0.0.1:{redis_server.port}"):
                await within(PATIENCE_S / 2, call)
        redis_server.start()
        assert await store.get("a") is None
        await store.put("b", b"2")
        assert await store.get("b") == b"2"

    with_store(lambda: redis_store(redis_server.url), test)


def test_a_server_that_is_not_there_yet_does_not_stop_the_start(redis_server, caplog):
    redis_server.stop()

    async def test(store):
        assert "checkpoints begin when it answers" in caplog.text
        redis_server.start()
        await store.put("a", b"1")

    with_store(lambda: redis_store(redis_server.url), test)


def test_a_server_that_hangs_costs_the_deadline_and_never_gives_another_keys_answer(redis_server):
    async def test(store):
        await store.put("a", b"first")
        await store.put("b", b"second")
        os.kill(redis_server.pid, signal.SIGSTOP)
        try:
            for call in (store.get("a"), store.put("c", b"x" * 5_000_000), store.delete(["b"])):
                with pytest.raises(StoreUnavailable, match=r"in 1 s|Timeout"):
                    await within(DEADLINE_S + 0.5, call)
        finally:
            os.kill(redis_server.pid, signal.SIGCONT)
        assert await store.get("b") in (b"second", None)
        assert await store.get("a") == b"first"
        assert await store.get("c") in (None, b"x" * 5_000_000)

    with_store(lambda: redis_store(redis_server.url, timeout_s=DEADLINE_S), test)


def test_a_call_that_is_given_up_leaves_no_answer_behind(redis_server):
    """Cancelled in the middle of an answer: the next call must not read the rest of it."""

    async def test(store):
        await store.put("large", os.urandom(30_000_000))
        await store.put("small", b"small")
        for delay in (0.0, 0.001, 0.003, 0.006, 0.012):
            call = asyncio.create_task(store.get("large"))
            await asyncio.sleep(delay)
            call.cancel()
            assert await store.get("small") == b"small"

    with_store(lambda: redis_store(redis_server.url), test)


def test_out_of_memory_is_an_error_and_not_a_silent_loss(redis_server):
    Redis.from_url(redis_server.url).config_set("maxmemory", "3mb")

    async def test(store):
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await asyncio.gather(*(store.put(str(number), b"x" * 1_000_000) for number in range(10)))

    with_store(lambda: redis_store(redis_server.url), test)


async def within(seconds, call):
    began = time.monotonic()
    try:
        return await call
    finally:
        assert time.monotonic() - began < seconds
