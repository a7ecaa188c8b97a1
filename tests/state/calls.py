"""A worker that takes checkpoints, without Kafka or a model: a real thread, an engine whose state is what it heard."""

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from tests.batching.fake import GEOMETRY, MODES, FakeEngine
from wire.records import Start
from worker.batching.runner import Runner
from worker.batching.scheduler import Scheduler
from worker.delivery.table import CheckpointRef, Row
from worker.engine.interface import SlotState
from worker.state.checkpoint import Checkpoint, Fingerprint
from worker.state.checkpointer import Checkpointer, Pace
from worker.stream.session import SessionLimits
from worker.telemetry.metrics import Metrics
from worker.transcript.transcriber import Progress

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

    @property
    def unsaved(self):
        return self.replay_ms > 0

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
