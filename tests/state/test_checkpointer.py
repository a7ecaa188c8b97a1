"""Checkpoints in the background: a real thread, a real Redis, an engine whose state is what it heard."""

import asyncio
import os
import signal
import time

import pytest
from redis import Redis

torch = pytest.importorskip("torch", reason="checkpoints hold tensors (the worker extra)")

from tests.state.calls import LIMITS, MODE, PREFIX, PRINT, Call, until, working  # noqa: E402
from wire.records import Start  # noqa: E402
from worker.delivery.table import CheckpointRef, Row  # noqa: E402
from worker.engine.interface import SlotState  # noqa: E402
from worker.state import checkpointer as module  # noqa: E402
from worker.state.checkpoint import Checkpoint, encode  # noqa: E402
from worker.state.checkpointer import Pace  # noqa: E402
from worker.state.device import DeviceStore  # noqa: E402
from worker.transcript.transcriber import Progress  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick")


def test_only_streams_whose_replay_costs_enough_are_saved_and_a_saved_one_only_once(store, redis_server):
    async def test():
        async with working(store) as worker:
            short, long = worker.call("short", 999), worker.call("long", 1000)
            await until(lambda: long.checkpoints)
            await asyncio.sleep(0.3)
            assert (short.checkpoints, len(long.checkpoints)) == ([], 1)
            long.hear_more(999)
            await asyncio.sleep(0.2)
            assert len(long.checkpoints) == 1
            long.hear_more(1)
            await until(lambda: len(long.checkpoints) == 2)
            (first, _), (second, offset) = long.checkpoints
            assert first != second
            assert second.startswith(f"{PREFIX}3:long:7:{offset}:")
            client = Redis.from_url(redis_server.url)
            assert sorted(client.keys()) == sorted([first.encode(), second.encode()])
            assert worker.count("saved") == 2
            written = sum(client.strlen(key) for key in (first, second))
            assert worker.metrics.checkpoint_bytes._value.get() == written

    asyncio.run(test())


def test_the_longest_replay_goes_first(store, monkeypatch):
    monkeypatch.setattr(module, "LANES", 1)
    saved = []
    monkeypatch.setattr(
        Call, "saved", lambda call, key, offset: saved.append(call.stream) or setattr(call, "resumes", call._at)
    )

    async def test():
        async with working(store, running=False) as worker:
            for name, samples in [("b", 3000), ("d", 1500), ("a", 9000), ("c", 2000)]:
                worker.call(name, samples)
            task = asyncio.create_task(worker.checkpointer.run(lambda: worker.calls))
            await until(lambda: len(saved) == 4)
            task.cancel()
        assert saved == ["a", "b", "c", "d"]

    asyncio.run(test())


def test_the_bandwidth_is_kept(store):
    size = len(encode(_example(), PRINT))

    async def test():
        async with working(store, running=False, pace=Pace(1000, 20 * size)) as worker:
            for number in range(11):
                worker.call(str(number), 5000)
            began = time.monotonic()
            task = asyncio.create_task(worker.checkpointer.run(lambda: worker.calls))
            await until(lambda: all(call.checkpoints for call in worker.calls))
            task.cancel()
            assert worker.metrics.checkpoint_bytes._value.get() == pytest.approx(11 * size, rel=0.1)
            assert 0.4 < time.monotonic() - began < 3

    asyncio.run(test())


def _example():
    """About what a call of 5,000 samples leaves."""
    feed = {"samples": b"", "received": 0, "taken": 0, "chunks": 0, "closed": False}
    slot = SlotState(MODE, {"serial": 1}, {"heard": torch.zeros(4040)})
    from worker.batching.feed import FeedState

    run = feed | {"samples": bytes(4 * 960), "received": 5000, "taken": 4040, "chunks": 4}
    return Checkpoint("10", 7, 6000, {"heard": 4040}, slot, FeedState(MODE, [run], False))


def test_without_the_store_the_worker_goes_on_and_catches_up_when_it_is_back(store, redis_server, caplog):
    async def test():
        async with working(store) as worker:
            call, other = worker.call("a", 2000), worker.call("b")
            await until(lambda: call.checkpoints)
            redis_server.kill()
            call.hear_more(5000)
            other.hear_more(5000)
            await until(lambda: not worker.checkpointer.available)
            await asyncio.sleep(1)
            assert worker.count("failed") < 30  # it backs off
            assert caplog.text.count("no checkpoints until") == 1
            await until(lambda: call.heard > 6000)  # no step waits for it
            redis_server.start()
            await until(lambda: call.replay_ms < 1000 and other.replay_ms < 1000)
            assert worker.checkpointer.available
            assert "answers again" in caplog.text

    with caplog.at_level("INFO"):
        asyncio.run(test())


def test_superseded_checkpoints_are_deleted_and_errors_are_only_logged(store, redis_server, caplog):
    async def test():
        client = Redis.from_url(redis_server.url)
        async with working(store) as worker:
            for number in range(250):
                client.set(f"old{number}", b"x")
            client.set("kept", b"x")
            worker.checkpointer.discard([f"old{number}" for number in range(250)])
            await until(lambda: client.dbsize() == 1)
            redis_server.kill()
            worker.checkpointer.discard(["kept"])
            await until(lambda: "left to their time to live" in caplog.text)
            redis_server.start()
            call = worker.call("a", 2000)
            await until(lambda: call.checkpoints)

    asyncio.run(test())


def test_a_put_that_was_done_but_not_answered_leaves_no_key_behind(store, redis_server):
    async def test():
        async with working(store) as worker:
            os.kill(redis_server.pid, signal.SIGSTOP)
            call = worker.call("a", 2000)
            await until(lambda: worker.count("failed"))
            os.kill(redis_server.pid, signal.SIGCONT)
            await until(lambda: call.checkpoints)
            await until(lambda: Redis.from_url(redis_server.url).keys() == [call.checkpoints[0][0].encode()])

    asyncio.run(test())


def test_a_stream_that_is_dropped_or_cannot_be_copied_holds_up_no_other(store, caplog, monkeypatch):
    monkeypatch.setattr(module, "LANES", 1)

    async def test():
        async with working(store) as worker:
            dropped, broken = worker.call("dropped", 9000), worker.call("broken", 8000)
            worker.scheduler.drop(dropped.feed)
            broken.snapshot = lambda slot, feed: 1 / 0
            fine = worker.call("fine", 2000)
            await until(lambda: "division by zero" in caplog.text)
            worker.calls.remove(dropped)
            worker.calls.remove(broken)
            await until(lambda: fine.checkpoints)
            assert dropped.checkpoints == broken.checkpoints == []

    asyncio.run(test())


def test_without_a_durable_store_nothing_is_copied_and_nothing_is_fetched():
    async def test():
        async with working(DeviceStore()) as worker:
            call = worker.call("a", 50_000)
            await asyncio.sleep(0.2)
            assert await worker.checkpointer.save_all(lambda: worker.calls, 5) == 0
            worker.checkpointer.discard(["x"])
            row = Row("a", 7, "n", Start("n", "pcm_s16le", 16000), LIMITS, Progress(), "m", CheckpointRef("k", 9))
            assert await worker.checkpointer.fetch(row) is None
            assert (call.snapshots, worker.checkpointer.available) == (0, True)

    asyncio.run(test())
