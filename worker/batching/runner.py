"""The one thread that owns the model."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from worker.batching.feed import Feed
from worker.batching.scheduler import Batch, Scheduler, Work
from worker.engine.interface import Engine, SlotState, Tokens


@dataclass(frozen=True, slots=True)
class Done:
    """A computed batch: each stream's tokens, and what the step took.

    calls: what the engine called for it, "encoder" and "decoder". phases: what of `seconds` went into "copying" (slots
    to and from host memory), "features", "encoder" and "decoder".
    """

    results: Sequence[tuple[Work, Tokens]]
    rows: int
    seconds: float
    samples: int
    calls: Mapping[str, int]
    phases: Mapping[str, float]


class Runner(threading.Thread):
    """Takes batches until the scheduler stops. `deliver`, `fail` and `captured` are called on this thread.

    `captured` gets the copy of a stream's engine state, None if the engine holds nothing of it: after `deliver` of all
    that the copy has heard, and before that of anything else.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        deliver: Callable[[Done], object],
        fail: Callable[[BaseException], object],
        captured: Callable[[Feed, SlotState | None], object] = lambda feed, state: None,
    ) -> None:
        super().__init__(name="model", daemon=True)
        self._engine = engine
        self._scheduler = scheduler
        self._deliver = deliver
        self._fail = fail
        self._captured = captured

    def run(self) -> None:
        try:
            while (batch := self._scheduler.take()) is not None:
                done = self._step(batch)
                if batch.work:
                    self._deliver(done)
                self._scheduler.done(batch)  # after: once the scheduler is idle, all results are on their way
        except BaseException as error:
            self._fail(error)

    def _step(self, batch: Batch) -> Done:
        began = time.perf_counter()
        copies = {}
        for feed, slot in batch.spill:
            feed.saved = copies[slot] = self._engine.save(slot)
        if (wanted := batch.capture) is not None:
            copied = wanted.saved
            if wanted.slot is not None:
                copied = copies.get(wanted.slot) or self._engine.save(wanted.slot)
            self._captured(wanted.feed, copied)
        for feed, slot in batch.admit:
            saved, feed.saved = feed.saved, None  # once: the loop may drop the stream at any moment
            if saved is None:
                self._engine.open(slot, feed.mode)
            else:
                self._engine.load(slot, saved)
        rows = [work.row for work in batch.work if work.row is not None]
        copied_at = time.perf_counter()
        calls, seconds = dict(self._engine.calls), dict(self._engine.seconds)
        tokens = iter(self._engine.step(rows)) if rows else iter(())
        calls = {name: count - calls[name] for name, count in self._engine.calls.items()}
        phases = {name: total - seconds[name] for name, total in self._engine.seconds.items()}
        phases["copying"] = copied_at - began
        results = [(work, next(tokens) if work.row is not None else Tokens()) for work in batch.work]
        samples = sum(len(row.samples) for row in rows)
        return Done(results, len(rows), time.perf_counter() - began, samples, calls, phases)
