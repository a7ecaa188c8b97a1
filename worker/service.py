"""The worker: the one module that wires all parts.

Reader -> Partition -> Scheduler -> Runner (thread) -> Partition -> Publisher
                                                                      |
                                                 Committer <- acknowledged
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import Any

import numpy as np

from worker.batching.runner import Done, Runner
from worker.batching.scheduler import Scheduler
from worker.delivery.offsets import Committer
from worker.delivery.publisher import Publisher
from worker.engine.interface import Engine, Mode, Row
from worker.ingest import topics
from worker.ingest.reader import Reader
from worker.partition import Deployment, LiveStream, Partition
from worker.settings import Settings
from worker.telemetry.metrics import Metrics
from worker.telemetry.server import TelemetryServer

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 0.5
# The event loop or the model's thread standing still for so long is a fault, not load: a step takes seconds at most.
HEARTBEAT_TIMEOUT_S = 60.0
BYTES_PER_SAMPLE = 4


class StartError(Exception):
    """The worker cannot start; the text says what is wrong and what to do."""


class Service:
    """One worker process. `run` returns the exit code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client = {"bootstrap_servers": settings.kafka.bootstrap_servers}
        self._metrics = Metrics()
        self._starting: str | None = "starting"
        self._beat = time.monotonic()
        self._runner: Runner | None = None

    async def run(self) -> int:
        """Start, work until SIGTERM or a fault, drain. Raises StartError, UnsupportedModel."""
        telemetry = self._serve_telemetry()
        try:
            return await self._run()
        finally:
            telemetry.stop()

    async def _run(self) -> int:
        settings = self._settings
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await self._check_topics()
        self._starting = "loading the model"
        engine = await self._load_unless(stop)
        mode = self._mode(engine)
        scheduler = Scheduler(
            engine.info.geometry,
            settings.batching.slots,
            settings.batching.max_batch,
            settings.batching.max_frames,
        )
        publisher = Publisher(settings.kafka.topics, self._client, settings.kafka.request_timeout_ms, self._metrics)
        failed: asyncio.Future[None] = loop.create_future()
        self._runner = Runner(
            engine,
            scheduler,
            deliver=lambda done: loop.call_soon_threadsafe(self._deliver, done, engine),
            fail=lambda error: loop.call_soon_threadsafe(_fail, failed, error),
        )
        deployment = Deployment(settings.stream, mode, engine.info, scheduler, publisher, self._metrics)
        reader = Reader(
            settings.kafka,
            self._client,
            make_partition=lambda number, resume, read: Partition(number, resume, read, deployment),
            pressure=lambda: self._pressure(scheduler),
        )
        committer = Committer(reader.consumer, settings.kafka.audio_topic, publisher, settings.kafka.commit_interval_ms)
        reader.committer = committer
        self._starting = "joining the consumer group"
        try:
            await publisher.start()
            await reader.start()
        except TimeoutError:
            await publisher.stop()
            raise StartError(f"Kafka at {settings.kafka.bootstrap_servers} does not answer") from None
        self._runner.start()
        self._starting = None
        log.info("ready: %s", engine.info.model_id)
        reading = asyncio.create_task(reader.run(), name="reader")
        tasks: list[asyncio.Future[Any]] = [
            asyncio.create_task(stop.wait(), name="stop"),
            reading,
            asyncio.create_task(committer.run(reader.partitions), name="committer"),
            asyncio.create_task(self._housekeeping(reader, scheduler, publisher, engine), name="housekeeping"),
            failed,
            publisher.failed,
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        faults = [task.exception() for task in tasks if task.done() and task.exception() is not None]
        for fault in faults:
            log.critical("the worker stops: %s", fault, exc_info=fault)
        reader.stop_reading()
        if not faults:
            self._starting = "draining"
            await self._drain(reading, reader, scheduler, committer)
        for task in tasks:
            task.cancel()
        scheduler.stop()
        await reader.leave()
        await publisher.stop()
        return 1 if faults else 0

    async def _drain(
        self, reading: "asyncio.Future[Any]", reader: Reader, scheduler: Scheduler, committer: Committer
    ) -> None:
        """Publish and commit what was read; live streams are read again by their next owner."""
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await reading
                while not scheduler.idle:  # noqa: ASYNC110 the scheduler belongs to a thread
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0)  # let the last step's results in
                await committer.commit(list(reader.partitions.values()))
        except TimeoutError:
            log.warning("draining took longer than %d s; the rest is read again", self._settings.drain_timeout_s)

    async def _check_topics(self) -> None:
        kafka = self._settings.kafka
        try:
            async with asyncio.timeout(kafka.request_timeout_ms / 1000):
                problems = await topics.check(kafka.topics, **self._client)
        except (TimeoutError, OSError) as error:
            raise StartError(f"Kafka at {kafka.bootstrap_servers} does not answer: {error}") from None
        except Exception as error:
            raise StartError(f"Kafka at {kafka.bootstrap_servers}: {error}") from error
        if problems:
            raise StartError("the topics are not as the worker needs them:\n" + "\n".join(f"  - {p}" for p in problems))

    async def _load_unless(self, stop: asyncio.Event) -> Engine:
        """Load the model; a stop in that time ends the process at once, since nothing is owned or owed yet."""
        loading = asyncio.get_running_loop().run_in_executor(None, self._load_engine)
        stopping = asyncio.create_task(stop.wait())
        either: list[asyncio.Future[Any]] = [loading, stopping]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            log.info("told to stop while loading the model")
            logging.shutdown()
            os._exit(0)  # an orderly exit would wait for the thread that loads
        stopping.cancel()
        return loading.result()

    def _load_engine(self) -> Engine:
        import torch

        from worker.engine.build import build
        from worker.engine.model import load

        settings = self._settings.model
        # the event loop needs a core; step threads that wait for each other on a busy one cost more than they bring
        torch.set_num_threads(settings.threads or max(1, len(os.sched_getaffinity(0)) // 2))
        began = time.monotonic()
        model = load(settings.source, settings.device, settings.id)
        batching = self._settings.batching
        engine = build(model, batching.slots, settings.engine, settings.dtype, batching.max_frames)
        mode = self._mode(engine)
        engine.open(0, mode)
        silence = np.zeros(engine.info.geometry.chunk_end(mode.look_ahead, 1), dtype=np.float32)
        engine.step([Row(0, silence, last=True)])  # what is made on first use is made before the first call
        log.info("model %s loaded in %.1f s", engine.info.model_id, time.monotonic() - began)
        return engine

    def _mode(self, engine: Engine) -> Mode:
        settings, info = self._settings.model, engine.info
        decoder = info.decoders[0] if settings.decoder == "auto" else settings.decoder
        if settings.look_ahead not in info.look_aheads:
            have = ", ".join(map(str, info.look_aheads))
            raise StartError(f"model.look_ahead is {settings.look_ahead}: {info.model_id} has {have}")
        if decoder not in info.decoders:
            have = ", ".join(info.decoders)
            raise StartError(f"model.decoder is {decoder!r}: {info.model_id} has {have}")
        self._metrics.model.info({"id": info.model_id, "look_ahead": str(settings.look_ahead), "decoder": decoder})
        self._metrics.slots.set(engine.slots)
        return Mode(settings.look_ahead, decoder)

    def _deliver(self, done: Done, engine: Engine) -> None:
        if done.rows:
            self._metrics.batch.observe(done.rows)
            self._metrics.step.observe(done.seconds)
            self._metrics.encoder_calls.inc(done.calls["encoder"])
            self._metrics.decoder_calls.inc(done.calls["decoder"])
            self._metrics.audio.inc(done.samples / engine.info.geometry.sample_rate)
        for work, tokens in done.results:
            live: LiveStream = work.feed.owner
            live.partition.heard(live, tokens, work.last)

    def _pressure(self, scheduler: Scheduler) -> bool:
        """Waiting audio fills its memory. Never while the engine has nothing to do: reading on is the way out."""
        limit = self._settings.batching.memory_mb * 1_000_000
        return scheduler.waiting_samples * BYTES_PER_SAMPLE > limit and not scheduler.idle

    async def _housekeeping(self, reader: Reader, scheduler: Scheduler, publisher: Publisher, engine: Engine) -> None:
        rate, rebalances = engine.info.geometry.sample_rate, 0
        while True:
            self._beat = time.monotonic()
            metrics, occupancy = self._metrics, scheduler.occupancy()
            partitions = list(reader.partitions.values())
            for state, count in (
                ("active", occupancy.active),
                ("spilled", occupancy.spilled),
                ("waiting", occupancy.waiting),
                ("open", sum(p.open_streams for p in partitions)),
            ):
                metrics.streams.labels(state).set(count)
            metrics.ready.set(occupancy.ready)
            metrics.queue.set(occupancy.samples / rate)
            metrics.unacknowledged.set(publisher.backlog)
            metrics.paused.set(reader.paused)
            metrics.partitions.set(len(partitions))
            metrics.rebalances.inc(reader.rebalances - rebalances)
            rebalances = reader.rebalances
            metrics.lag.clear()
            for partition in partitions:
                caught_up = await reader.caught_up(partition.number)
                metrics.lag.labels(str(partition.number)).set(_lag(partition, caught_up))
                if caught_up:
                    partition.end_idle_streams()
            await asyncio.sleep(HOUSEKEEPING_S)

    def _serve_telemetry(self) -> TelemetryServer:
        settings = self._settings.telemetry
        try:
            server = TelemetryServer(
                settings.host, settings.port, self._metrics.registry, self._health, lambda: self._starting
            )
        except OSError as error:
            raise StartError(f"telemetry.port {settings.host}:{settings.port}: {error.strerror}") from None
        server.start()
        log.info("metrics at http://%s:%d/metrics", settings.host, server.port)
        return server

    def _health(self) -> str | None:
        if self._starting is not None:
            return None
        if self._runner is not None and not self._runner.is_alive():
            return "the model's thread has ended"
        if time.monotonic() - self._beat > HEARTBEAT_TIMEOUT_S:
            return "the event loop stands still"
        return None


def _lag(partition: Partition, caught_up: bool) -> float:
    """Seconds since the oldest record not yet through the engine was written; 0 if there is none."""
    times = [partition.oldest_unheard()]
    if not caught_up:  # what is not read yet is younger than what was read last
        times.append(partition.last_timestamp)
    known = [t for t in times if t is not None]
    return max(0.0, time.time() - min(known) / 1000) if known else 0.0


def _fail(future: "asyncio.Future[None]", error: BaseException) -> None:
    if not future.done():
        with contextlib.suppress(asyncio.InvalidStateError):
            future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
