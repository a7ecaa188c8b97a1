"""The worker: the one module that wires all parts.

Reader -> Partition -> Scheduler -> Runner (thread) -> Partition -> Outbox -> Committer -> Ledger
              |                          |                             |
              +----- Checkpointer <------+ (copies of slots)           +----> Partials
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Callable, Collection
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from producer import tracing
from worker.admission import Admission
from worker.batching.feed import SAMPLE_BYTES
from worker.batching.runner import Done, Runner
from worker.batching.scheduler import Scheduler
from worker.delivery.committer import Committer
from worker.delivery.ledger import Aborted, Ledger, Lost, PlainLedger, TransactionalLedger
from worker.delivery.outbox import Outbox
from worker.delivery.partials import Partials
from worker.engine.interface import Engine, Mode
from worker.housekeeping import Housekeeping
from worker.ingest import assignment
from worker.ingest.assignment import Restored
from worker.ingest.ownership import Holding
from worker.ingest.reader import Reader
from worker.live import Deployment, LiveStream, try_out
from worker.partition import Partition
from worker.settings import Settings
from worker.starting import StartError, check_topics, join_unless, load_unless, make_store
from worker.state.checkpointer import Checkpointer, Pace
from worker.state.measured import MeasuredStore
from worker.state.store import StateStore
from worker.telemetry.build import build_info
from worker.telemetry.kafka import observe
from worker.telemetry.metrics import Metrics
from worker.telemetry.server import TelemetryServer
from worker.telemetry.traces import Traces

log = logging.getLogger(__name__)

LEAVE_S = 2.0  # to leave the group, at least
# The event loop or the model's thread standing still for so long is a fault, not load: a step takes seconds at most.
HEARTBEAT_TIMEOUT_S = 60.0

# For how long the event loop may keep the interpreter from the model's thread, which needs it between any two
# operations. Python's own 5 ms are longer than most of those take.
SWITCH_S = 0.0005


class Service:
    """One worker process. `run` returns the exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = settings.kafka.client()
        self._metrics = Metrics()
        self._metrics.build.info(build_info())
        self._metrics.ready.set_function(lambda: self._starting is None)
        self._starting: str | None = "starting"
        self._runner: Runner | None = None
        self._housekeeping: Housekeeping | None = None
        provider = tracing.provider(settings.telemetry.traces, "trunkline-worker")
        self._traces = None if provider is None else Traces(provider)

    async def run(self) -> int:
        """Start, work until SIGTERM or a fault, drain. Raises StartError, UnsupportedModel."""
        sys.setswitchinterval(SWITCH_S)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        telemetry = self._serve_telemetry(drain=lambda: loop.call_soon_threadsafe(stop.set))
        try:
            return await self._run(stop)
        finally:
            telemetry.stop()
            if self._traces is not None:
                await asyncio.to_thread(self._traces.stop)

    async def _run(self, stop: asyncio.Event) -> int:
        settings = self._settings
        loop = asyncio.get_running_loop()
        await check_topics(settings.kafka, self._client)
        store = MeasuredStore(make_store(settings.state), self._metrics)
        self._starting = "loading the model"
        loaded = await load_unless(stop, settings)
        engine, mode = loaded.engine, loaded.mode
        self._describe(engine, mode)
        scheduler = Scheduler(
            engine.info.geometry,
            settings.batching.slots,
            settings.batching.max_batch,
            settings.batching.max_frames,
        )
        deployment = Deployment(settings.stream, mode, engine.info, scheduler)
        failed: asyncio.Future[None] = loop.create_future()
        checkpointer = Checkpointer(
            store,
            scheduler,
            loaded.fingerprint,
            Pace(settings.state.checkpoint_after_ms, settings.state.checkpoint_mb_per_s * 1_000_000),
            f"{settings.state.key_prefix}{settings.kafka.group}:{settings.kafka.audio_topic}:",
            self._metrics,
            lambda row, checkpoint: try_out(row, checkpoint, deployment),
        )
        self._runner = Runner(
            engine,
            scheduler,
            deliver=lambda done: loop.call_soon_threadsafe(_guarded, failed, self._deliver, done, engine),
            fail=lambda error: loop.call_soon_threadsafe(_fail, failed, error),
            captured=lambda feed, slot: loop.call_soon_threadsafe(_guarded, failed, checkpointer.captured, feed, slot),
        )
        partials = Partials(
            settings.kafka.partial_topic, self._client, settings.kafka.request_timeout_ms, self._metrics
        )
        reader, admission = self._reader(deployment, partials, checkpointer, scheduler)
        self._starting = "joining the consumer group"
        await store.start()
        if not await join_unless(stop, reader, settings.kafka):
            await _leave(reader, store, settings.drain_timeout_s)
            return 0
        self._runner.start()
        self._starting = None
        self._housekeeping = Housekeeping(reader, scheduler, checkpointer, engine, self._metrics)
        log.info("ready: %s", engine.info.model_id)

        def live_streams() -> list[LiveStream]:
            return [live for partition in reader.partitions for live in partition.live]

        reading = asyncio.create_task(reader.run(), name="reader")
        checkpointing = asyncio.create_task(checkpointer.run(live_streams), name="checkpointer")
        sending = asyncio.create_task(partials.run(), name="partials")
        admitting = asyncio.create_task(admission.run(), name="admission")
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(stop.wait(), name="stop"),
            reading,
            checkpointing,
            sending,
            admitting,
            admission.fault,
            asyncio.create_task(self._housekeeping.run(), name="housekeeping"),
            failed,
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        faults = [task.exception() for task in tasks if task.done() and task.exception() is not None]
        for fault in faults:
            log.critical("the worker stops: %s", fault, exc_info=fault)
        told = time.monotonic()
        reader.stop_reading()
        admitting.cancel()
        if not faults:
            self._starting = "draining"
            await self._drain(reading, reader, scheduler, checkpointer, live_streams)
        for task in tasks:
            task.cancel()
        scheduler.stop()
        await _leave(reader, store, max(LEAVE_S, told + settings.drain_timeout_s - time.monotonic()), tasks)
        return 1 if faults else 0

    async def _drain(
        self,
        reading: "asyncio.Future[Any]",
        reader: Reader,
        scheduler: Scheduler,
        checkpointer: Checkpointer,
        live_streams: Callable[[], list[LiveStream]],
    ) -> None:
        """Hear what was read, for a third of the time; then checkpoint every stream as it is, and commit.

        Their next owner goes on from there. Leaving the group has the last fifth of the time.
        """
        time_s = self._settings.drain_timeout_s
        try:
            async with asyncio.timeout(0.8 * time_s):
                await reading
                began = time.monotonic()
                while not scheduler.idle and time.monotonic() - began < time_s / 3:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # the scheduler belongs to a thread: nothing to await
                scheduler.hold()
                while not scheduler.at_rest:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0)  # let the last step's results in
                await checkpointer.save_all(live_streams, time_s / 4)
                await reader.owned.commit()
                await checkpointer.sweep()  # what that commit has superseded
        except TimeoutError:
            log.warning("draining took longer than %.0f s; the rest is read again", 0.8 * time_s)
        except (Aborted, Lost) as error:
            log.warning("the last commit failed; its events are published by the next owner: %s", error)

    def _reader(
        self, deployment: Deployment, partials: Partials, checkpointer: Checkpointer, scheduler: Scheduler
    ) -> tuple[Reader, Admission]:
        """The reader, what it makes for each partition that it is given, and who may hold memory there."""
        kafka, metrics = self._settings.kafka, self._metrics

        async def restore(consumer: AIOKafkaConsumer, place: TopicPartition) -> Restored:
            def ledger(number: int) -> Ledger:
                made: Ledger
                if kafka.delivery == "exactly_once":
                    made = TransactionalLedger(kafka, self._client, number)
                else:
                    made = PlainLedger(kafka, self._client, number, consumer)
                observe(made.client, metrics)
                return made

            began = time.monotonic()
            restored = await assignment.restore(place, consumer, kafka, self._client, ledger, checkpointer)
            metrics.restore.observe(time.monotonic() - began)
            return restored

        def hold(number: int, restored: Restored) -> Holding:
            outbox = Outbox(number, kafka.topics, partials, self._traces)
            partition = Partition(
                number, restored.resume, restored.table, restored.checkpoints, deployment, outbox, kafka, metrics
            )
            committer = Committer(partition, restored.ledger, kafka, metrics, checkpointer.discard)
            return Holding(partition, committer, asyncio.create_task(committer.run(), name=f"commit {number}"))

        reader = Reader(kafka, self._client, restore, hold, pressure=lambda: admission.pressure(), traces=self._traces)
        observe(reader.consumer._client, metrics)
        memory = self._settings.batching.memory_mb * 1_000_000
        admission = Admission(scheduler, memory, reader.owned, kafka.audio_topic, self._client, checkpointer)
        return reader, admission

    def _deliver(self, done: Done, engine: Engine) -> None:
        if done.rows:
            self._metrics.batch.observe(done.rows)
            self._metrics.step.observe(done.seconds)
            for phase, seconds in done.phases.items():
                self._metrics.phase.labels(phase).observe(seconds)
            self._metrics.encoder_calls.inc(done.calls["encoder"])
            self._metrics.decoder_calls.inc(done.calls["decoder"])
            self._metrics.audio.inc(done.samples / engine.info.geometry.sample_rate)
        for work, tokens in done.results:
            live: LiveStream = work.feed.owner
            live.partition.heard(live, tokens, work.last)

    def _describe(self, engine: Engine, mode: Mode) -> None:
        """Put on the page what does not change while the worker runs."""
        metrics, settings, geometry = self._metrics, self._settings, engine.info.geometry
        chosen = {"engine": settings.model.engine, "dtype": settings.model.dtype}
        metrics.model.info(
            {"id": engine.info.model_id, "look_ahead": str(mode.look_ahead), "decoder": mode.decoder, **chosen}
        )
        metrics.slots.set(engine.slots)
        metrics.batch_capacity.set(min(settings.batching.max_batch, engine.slots))
        metrics.chunk.set(geometry.chunk_samples(mode.look_ahead) / geometry.sample_rate)
        metrics.arena.set(engine.slots * engine.bytes_per_slot())
        samples = settings.batching.memory_mb * 1_000_000 / SAMPLE_BYTES
        metrics.queue_capacity.set(samples / geometry.sample_rate)

    def _serve_telemetry(self, drain: Callable[[], object]) -> TelemetryServer:
        settings = self._settings.telemetry
        try:
            server = TelemetryServer(
                settings.host, settings.port, self._metrics.registry, self._health, lambda: self._starting, drain
            )
        except OSError as error:
            raise StartError(f"telemetry.port {settings.host}:{settings.port}: {error.strerror}") from None
        server.start()
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        log.info("metrics at http://%s:%d/metrics", host, server.port)
        return server

    def _health(self) -> str | None:
        if self._starting is not None:
            return None
        if self._runner is not None and not self._runner.is_alive():
            return "the model's thread has ended"
        if self._housekeeping is not None and time.monotonic() - self._housekeeping.beat > HEARTBEAT_TIMEOUT_S:
            return "the event loop stands still"
        return None


async def _leave(
    reader: Reader, store: StateStore, time_s: float, tasks: Collection["asyncio.Future[Any]"] = ()
) -> None:
    """Leave the group; then wait for these tasks, which are cancelled."""
    try:
        async with asyncio.timeout(time_s):
            await reader.leave()
            if tasks:
                await asyncio.wait(tasks)
            await store.close()
    except TimeoutError:
        log.warning("the brokers do not answer; the group notices by its session time-out that the worker is gone")


def _guarded(failed: "asyncio.Future[None]", take: Callable[..., object], *arguments: Any) -> None:
    """A result that cannot be taken must not be lost without a word: the worker stops, and all is replayed."""
    try:
        take(*arguments)
    except Exception as error:
        _fail(failed, error)


def _fail(future: "asyncio.Future[None]", error: BaseException) -> None:
    if not future.done():
        with contextlib.suppress(asyncio.InvalidStateError):
            future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
