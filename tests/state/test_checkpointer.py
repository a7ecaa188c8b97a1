"""Checkpoints in the background: a real thread, a real Redis, an engine whose state is what it heard."""

import asyncio
import itertools
import os
import signal
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from redis import Redis

torch = pytest.importorskip("torch", reason="checkpoints hold tensors (the worker extra)")

from tests.batching.fake import GEOMETRY, MODES, FakeEngine  # noqa: E402
from wire.records import Start  # noqa: E402
from worker.batching.runner import Runner  # noqa: E402
from worker.batching.scheduler import Scheduler  # noqa: E402
from worker.delivery.table import CheckpointRef, Row  # noqa: E402
from worker.engine.interface import SlotState  # noqa: E402
from worker.state import checkpointer as module  # noqa: E402
from worker.state.checkpoint import Checkpoint, Fingerprint, decode, encode  # noqa: E402
from worker.state.checkpointer import Checkpointer, Pace  # noqa: E402
from worker.state.device import DeviceStore  # noqa: E402
from worker.state.redis import RedisStore  # noqa: E402
from worker.stream.session import SessionLimits  # noqa: E402
from worker.telemetry.metrics import Metrics  # noqa: E402
from worker.transcript.transcriber import Progress  # noqa: E402

MODE = MODES[0]
PRINT = Fingerprint("m@1", "layout-1")
FAST = Pace(after_ms=1000, bytes_per_s=1e9)
PREFIX = "t:group:audio:"
LIMITS = SessionLimits(2000, 1000, 60_000)


class Engine(FakeEngine):
    """What a slot heard of its segment is its state, as a tensor."""

    def save(self, slot):
        state = super().save(slot)
        heard = np.concatenate([*state.tensors["heard"], np.zeros(0, np.float32)]).astype(np.float32)
        return SlotState(state.mode, state.counters, {"heard": torch.from_numpy(heard)})

    def load(self, slot, state):
        super().load(slot, replace(state, tensors={"heard": [state.tensors["heard"].numpy()]}))


@dataclass(frozen=True)
class Number:
    number: int


@dataclass(eq=False)
class Call:
    """A live stream: what it received and what it was told of its checkpoints. A sample counts as a ms to replay."""

    worker: "Worker"
    stream: str
    mode: object = MODE
    partition: Number = Number(3)
    received: int = 0
    heard: int = 0
    resumes: int = 0
    checkpoints: list = field(default_factory=list)
    snapshots: int = 0
    _at: int = 0

    def __post_init__(self):
        self.feed = self.worker.scheduler.admit(self.mode, self)

    @property
    def replay_ms(self):
        return self.received - self.resumes

    def hear_more(self, samples):
        audio = np.arange(self.received, self.received + samples, dtype=np.float32)
        self.received += samples
        self.worker.scheduler.push(self.feed, audio)
        return self

    def snapshot(self, slot, feed):
        self.snapshots += 1
        self._at = self.received
        return Checkpoint(self.stream, 7, 1000 + self.received, {"heard": self.heard}, slot, feed)

    def saved(self, key, offset):
        self.resumes = self._at
        self.checkpoints.append((key, offset))

    @property
    def row(self):
        start = Start("n", "pcm_s16le", 16000)
        return Row(self.stream, 7, "n", start, LIMITS, Progress(), "m", CheckpointRef(*self.checkpoints[-1]))


class Worker:
    """Scheduler, thread and checkpointer, as the service wires them."""

    def __init__(self, store, pace=FAST, fingerprint=PRINT):
        loop = asyncio.get_running_loop()
        self.metrics = Metrics()
        self.scheduler = Scheduler(GEOMETRY, 4, 4, 4)
        self.unusable = None  # what making a stream from its checkpoint raises
        self.checkpointer = Checkpointer(
            store, self.scheduler, fingerprint, pace, PREFIX, self.metrics, lambda row, found: self._try_out()
        )
        self.runner = Runner(
            Engine(4),
            self.scheduler,
            lambda done: loop.call_soon_threadsafe(self._deliver, done),
            pytest.fail,
            lambda feed, slot: loop.call_soon_threadsafe(self.checkpointer.captured, feed, slot),
        )
        self.calls = []

    def _deliver(self, done):
        for work, _ in done.results:
            if work.row is not None:
                call = work.feed.owner
                assert np.array_equal(work.row.samples, np.arange(call.heard, call.heard + len(work.row.samples)))
                call.heard += len(work.row.samples)

    def _try_out(self):
        if self.unusable is not None:
            raise self.unusable

    def call(self, stream, samples=0, **more):
        self.calls.append(Call(self, stream, **more))
        return self.calls[-1].hear_more(samples) if samples else self.calls[-1]

    def count(self, outcome):
        return self.metrics.checkpoints.labels(outcome)._value.get()


@asynccontextmanager
async def working(store, running=True, **more):
    await store.start()
    worker = Worker(store, **more)
    worker.runner.start()
    task = asyncio.create_task(worker.checkpointer.run(lambda: worker.calls)) if running else None
    try:
        yield worker
    finally:
        if task is not None:
            assert not task.done()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        worker.scheduler.stop()
        worker.runner.join(5)
        await store.close()


async def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.01)


@pytest.fixture
def store(redis_server):
    return RedisStore(redis_server.url, ttl_s=600, timeout_s=1.0)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "IDLE_S", 0.02)
    monkeypatch.setattr(module, "BACKOFF_S", (0.1, 0.4))


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
                os.kill(redis_server.process.pid, signal.SIGSTOP)
            else:
                redis_server.kill()
            try:
                began = time.monotonic()
                assert await worker.checkpointer.save_all(lambda: worker.calls, 0.5) == 0
                assert time.monotonic() - began < 1
            finally:
                if how == "hangs":
                    os.kill(redis_server.process.pid, signal.SIGCONT)

    asyncio.run(test())
    assert "could not be checkpointed" in caplog.text or "no checkpoints until" in caplog.text


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
            os.kill(redis_server.process.pid, signal.SIGSTOP)
            call = worker.call("a", 2000)
            await until(lambda: worker.count("failed"))
            os.kill(redis_server.process.pid, signal.SIGCONT)
            await until(lambda: call.checkpoints)
            await until(lambda: Redis.from_url(redis_server.url).keys() == [call.checkpoints[0][0].encode()])

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
            os.kill(redis_server.process.pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(module, "BACKOFF_S", (5.0, 5.0))
                    worker.checkpointer._backoff = 5.0
                    found = await asyncio.gather(*(worker.checkpointer.fetch(row) for _ in range(200)))
                assert time.monotonic() - began < 2.5
            finally:
                os.kill(redis_server.process.pid, signal.SIGCONT)
            assert found == [None] * 200
            assert not worker.checkpointer.available

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
