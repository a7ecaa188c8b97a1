"""Checkpoints read back: exactly the one that is named, or a replay."""

import asyncio
import itertools
import os
import signal
import time
from dataclasses import replace

import pytest
from redis import Redis

pytest.importorskip("torch", reason="checkpoints hold tensors (the worker extra)")

from tests.batching.fake import MODES
from tests.state.calls import LIMITS, PRINT, Call, until, working
from wire.records import Start
from worker.delivery.table import CheckpointRef, Row
from worker.state import checkpointer as module
from worker.state.checkpoint import Fingerprint, decode, encode
from worker.state.redis import RedisStore
from worker.transcript.transcriber import Progress

pytestmark = pytest.mark.usefixtures("quick")


def test_a_checkpoint_fetched_by_another_worker_goes_on_where_it_was_taken(store, redis_server):
    """Audio comes all the time while copies are made; each is of one moment."""

    async def test():
        async with working(store) as first:
            calls = [first.call(name, mode=mode) for name, mode in zip("abcdef", itertools.cycle(MODES), strict=False)]
            for _ in range(60):
                for number, call in enumerate(calls):
                    call.hear_more(100 + 37 * number)
                await asyncio.sleep(0.003)
            await until(lambda: all(len(call.checkpoints) > 1 for call in calls))
            rows = [call.row for call in calls]
        again = RedisStore(redis_server.url, ttl_s=600, timeout_s=1.0)
        async with working(again, running=False) as second:
            for row, call in zip(rows, calls, strict=True):
                checkpoint = await second.checkpointer.fetch(row)
                assert (checkpoint.stream, checkpoint.offset) == (row.stream, row.checkpoint.offset)
                moved = Call.__new__(Call)
                received = checkpoint.offset - 1000
                moved.__dict__.update(worker=second, stream="", received=received, heard=checkpoint.host["heard"])
                moved.feed = second.scheduler.admit(call.mode, moved, checkpoint.feed, checkpoint.slot)
                moved.hear_more(20_000)
                second.scheduler.close(moved.feed, ending=True)
                await until(lambda moved=moved: moved.heard == moved.received)
            assert second.count("restored") == len(calls)

    asyncio.run(test())


async def saved_row(worker):
    call = worker.call("a", 2000)
    await until(lambda: call.checkpoints)
    return call.row


@pytest.mark.parametrize(
    ("what", "outcome", "said"),
    [
        ("missing", "missing", "is gone"),
        ("damaged", "refused", "checksum"),
        ("other model", "refused", "this worker runs m@1"),
        ("other stream", "refused", "another stream"),
        ("other offset", "refused", "another stream or offset"),
        ("not one", "refused", "no checkpoint"),
        ("not to be used", "refused", "KeyError"),
    ],
)
def test_anything_but_exactly_that_checkpoint_means_replay(store, redis_server, caplog, what, outcome, said):
    async def test():
        client = Redis.from_url(redis_server.url)
        async with working(store) as worker:
            row = await saved_row(worker)
            key = row.checkpoint.key
            data = client.get(key)
            assert await worker.checkpointer.fetch(row) is not None
            if what == "missing":
                client.flushall()
            elif what == "other stream":
                row = replace(row, stream="b")
            elif what == "other offset":
                row = replace(row, checkpoint=CheckpointRef(key, row.checkpoint.offset + 1))
            elif what == "not to be used":
                worker.unusable = KeyError("joining")
            elif what == "other model":
                client.set(key, encode(decode(data, PRINT), Fingerprint("m@2", PRINT.layout)))
            else:
                client.set(key, data[:-1] if what == "damaged" else b"something else" * 10)
            assert await worker.checkpointer.fetch(row) is None
            assert worker.count(outcome) == 1
            assert said in caplog.text
            assert await worker.checkpointer.fetch(replace(row, checkpoint=None)) is None

    asyncio.run(test())


def test_a_store_that_hangs_costs_a_restore_one_deadline_and_not_one_a_stream(store, redis_server):
    async def test():
        async with working(store, running=False) as worker:
            row = Row("a", 7, "n", Start("n", "pcm_s16le", 16000), LIMITS, Progress(), "m", CheckpointRef("k", 9))
            os.kill(redis_server.pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(module, "BACKOFF_S", (5.0, 5.0))
                    worker.checkpointer._backoff = 5.0
                    found = await asyncio.gather(*(worker.checkpointer.fetch(row) for _ in range(200)))
                assert time.monotonic() - began < 2.5
            finally:
                os.kill(redis_server.pid, signal.SIGCONT)
            assert found == [None] * 200
            assert not worker.checkpointer.available

    asyncio.run(test())
