"""Checkpoints at a drain: all streams, in time."""

import asyncio
import os
import signal
import time

import pytest
from redis import Redis

pytest.importorskip("torch", reason="checkpoints hold tensors (the worker extra)")

from tests.state.calls import until, working
from worker.state import checkpointer as module
from worker.state.checkpointer import Pace

pytestmark = pytest.mark.usefixtures("quick")


def test_a_drain_saves_every_stream_whatever_the_budget(store):
    async def test():
        async with working(store, pace=Pace(10**9, 1.0)) as worker:
            calls = [worker.call(str(number), 100 * number + 1) for number in range(30)]
            untouched = worker.call("untouched")
            await until(lambda: worker.scheduler.idle)
            assert await worker.checkpointer.save_all(lambda: worker.calls, 10) == 30
            assert all(call.replay_ms == 0 for call in calls)
            assert untouched.checkpoints == []
            assert await worker.checkpointer.save_all(lambda: worker.calls, 10) == 0

    asyncio.run(test())


def test_a_drain_waits_for_what_was_under_way_and_begins_nothing_twice(store):
    async def test():
        async with working(store, pace=Pace(1000, 1e9)) as worker:
            calls = [worker.call(str(number), 5000) for number in range(30)]
            await until(lambda: any(call.snapshots for call in calls))
            await worker.checkpointer.save_all(lambda: worker.calls, 10)
            assert [len(call.checkpoints) for call in calls] == [1] * 30

    asyncio.run(test())


@pytest.mark.parametrize("how", ["hangs", "is gone"])
def test_a_drain_ends_in_time_when_the_store_does_not_answer(store, redis_server, how, caplog):
    async def test():
        async with working(store, running=False) as worker:
            for number in range(10):
                worker.call(str(number), 5000)
            if how == "hangs":
                os.kill(redis_server.pid, signal.SIGSTOP)
            else:
                redis_server.kill()
            try:
                began = time.monotonic()
                assert await worker.checkpointer.save_all(lambda: worker.calls, 0.5) == 0
                assert time.monotonic() - began < 1
            finally:
                if how == "hangs":
                    os.kill(redis_server.pid, signal.SIGCONT)

    asyncio.run(test())
    assert "could not be checkpointed" in caplog.text or "no checkpoints until" in caplog.text


def test_a_drain_is_not_held_up_by_what_waits_for_the_budget(store):
    async def test():
        async with working(store, pace=Pace(1000, 200.0)) as worker:  # minutes a checkpoint
            calls = [worker.call(str(number), 5000) for number in range(12)]
            await until(lambda: sum(call.snapshots for call in calls) >= module.LANES)
            await asyncio.sleep(0.2)
            await worker.checkpointer.save_all(lambda: worker.calls, 5)
            assert [len(call.checkpoints) for call in calls] == [1] * 12

    asyncio.run(test())


def test_after_its_last_commit_a_drain_deletes_what_that_superseded(store, redis_server):
    async def test():
        client = Redis.from_url(redis_server.url)
        async with working(store, running=False) as worker:
            for number in range(250):
                client.set(f"old{number}", b"x")
            worker.checkpointer.discard([f"old{number}" for number in range(250)])
            await worker.checkpointer.sweep()
            assert client.dbsize() == 0

    asyncio.run(test())
