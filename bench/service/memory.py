"""A worker's memory over hours of audio, heard as fast as it goes."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from bench.looped import Figures, Loop, figures, growth
from demo.__main__ import MODEL
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import own_topics
from tests.integration.sending import Sender

RECORD_MS = 1000
AHEAD_S = 600.0  # audio sent and not heard, at most
CALL_S = 600.0  # a call's length, about: streams end and begin as they do
SETTINGS: dict[str, object] = {"model.threads": 1, "batching.memory_mb": 64}


@dataclass(frozen=True)
class Memory:
    """Resident megabytes: by the hour, and how far they rose from the second fifth of the audio to the last."""

    hours: float
    growth_mb: float
    first_mb: float
    last_mb: float
    curve: list[Figures]


def measure(servers: str, zygote: Zygote, loops: Sequence[Loop], hours: float, say: Callable[[str], None]) -> Memory:
    with own_topics(servers) as topics:
        group = f"memory-{uuid.uuid4().hex[:8]}"
        worker = LocalWorker(servers, topics, MODEL, group, SETTINGS, zygote=zygote)
        worker.start()
        sender = Sender(servers, topics.audio)
        try:
            curve = _hear(worker, sender, loops, hours * 3600, say)
        finally:
            sender.close()
            worker.stop()
    inner = [figure.resident for figure in curve if figure.heard >= 0.2 * curve[-1].heard]
    return Memory(curve[-1].heard / 3600, growth(curve), inner[0], curve[-1].resident, curve)


def _hear(
    worker: LocalWorker, sender: Sender, loops: Sequence[Loop], total: float, say: Callable[[str], None]
) -> list[Figures]:
    began = time.monotonic()
    curve = [figures(worker, 0.0)]
    streams = [loop.records(round(CALL_S * 1000 / loop.ms), RECORD_MS) for loop in loops]
    calls = [0] * len(loops)
    sent, told = 0.0, 0
    while curve[-1].heard < 0.99 * total:
        while sent < total and sent - curve[-1].heard < AHEAD_S:
            for number, loop in enumerate(loops):
                records = list(islice(streams[number], 10))
                sender.put(f"stream-{number}-{calls[number]}", records, number % 4)
                sent += RECORD_MS / 1000 * len(records)
                if not records:
                    streams[number] = loop.records(round(CALL_S * 1000 / loop.ms), RECORD_MS)
                    calls[number] += 1
            sender.flush()
        time.sleep(0.5)
        curve.append(figures(worker, time.monotonic() - began))
        if curve[-1].heard // 3600 > told:
            told = int(curve[-1].heard // 3600)
            say(f"{told} h of audio: {curve[-1].resident:.0f} MB")
    return curve
