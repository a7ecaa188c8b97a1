"""The engine by itself on the streams that the service hears: no Kafka, no loop, nothing but steps."""

import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import numpy as np

from bench.looped import NONCE, Loop
from wire import Audio
from worker.stream.segment import Source
from worker.stream.session import Session, SessionLimits, Speech

BATCH = 32
FRAMES = 28  # encoder frames of a row in a step, as the worker's default for a stream that fell behind
WARM_UP = 2  # steps


def samples(loop: Loop, seconds: float) -> np.ndarray:
    """What the worker makes of a loop's records: 16 kHz, float32."""
    session = Session("mulaw", loop.rate, NONCE, SessionLimits(1, 1, 1), Source(0, 0))
    passes = int(seconds * 1000 // loop.ms) + 1
    pieces = [
        item.samples
        for record in loop.records(passes)
        if isinstance(record, Audio)
        for item in session.audio(record, Source(0, 0))
        if isinstance(item, Speech)
    ]
    return np.concatenate(pieces)[: int(seconds * 16000)]


class Bare:
    """A process of its own with an engine, idle but for `speed`: beside a worker it must not count."""

    def __init__(self, model: str, streams: Sequence[Loop], seconds: float, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, model, streams, seconds, threads), name="bare engine", daemon=True
        )

    def speed(self) -> float:
        """Seconds of audio that the engine takes in a second, all streams once from their beginning."""
        self._connection.send(True)
        return float(self._connection.recv())

    def __enter__(self) -> Self:
        self._process.start()
        self._connection.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, model: str, streams: Sequence[Loop], seconds: float, threads: int) -> None:
    import torch

    from worker.engine.build import build
    from worker.engine.interface import Mode, Row
    from worker.engine.model import load

    torch.set_num_threads(threads)
    engine = build(load(model, "cpu"), 64, "fast", "float32", FRAMES)
    mode = Mode(6, engine.info.decoders[0])
    geometry = engine.info.geometry
    audio = [samples(loop, seconds) for loop in streams]
    chunks = FRAMES // geometry.chunk_frames(mode.look_ahead)
    steps = int(seconds * 16000 - geometry.half_window) // (chunks * geometry.chunk_samples(mode.look_ahead)) - 1
    connection.send(None)
    while True:
        connection.recv()
        for slot in range(len(audio)):
            engine.open(slot, mode)
        position = heard = 0
        began = time.perf_counter()
        for step in range(steps):
            if step == WARM_UP:
                began, heard = time.perf_counter(), 0
            end = geometry.chunk_end(mode.look_ahead, (step + 1) * chunks - 1)
            for first in range(0, len(audio), BATCH):
                engine.step(
                    [Row(slot, audio[slot][position:end]) for slot in range(first, min(first + BATCH, len(audio)))]
                )
            heard += (end - position) * len(audio)
            position = end
        connection.send(heard / 16000 / (time.perf_counter() - began))
