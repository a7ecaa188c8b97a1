"""An engine that says what cannot be: the worker must stop, and commit nothing past what it could not take."""

import asyncio
from collections.abc import Sequence
from dataclasses import astuple

import pytest

from tests.batching.fake import MODES, FakeEngine
from tests.integration.offsets import committed
from tests.integration.sending import Sender, spoken, stream_of
from tests.integration.support import Outputs, unique
from wire import Topics
from worker import service
from worker.engine.interface import Row, Tokens
from worker.settings import Settings
from worker.sources import load
from worker.starting import Loaded
from worker.state.checkpoint import Fingerprint

pytestmark = pytest.mark.kafka


class Babbling(FakeEngine):
    """Its last token is none of the vocabulary."""

    def step(self, rows: Sequence[Row]) -> list[Tokens]:
        found = super().step(rows)
        for tokens in found:
            tokens.ids.append(len(self.info.pieces))
            tokens.frames.append(0)
            tokens.confidences.append(1.0)
        return found


def test_an_event_that_cannot_be_taken_from_the_engine_stops_the_worker(
    kafka: str, topics: Topics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def loaded(stop: asyncio.Event, settings: Settings) -> Loaded:
        return Loaded(Babbling(settings.batching.slots), MODES[1], Fingerprint("", ""))

    monkeypatch.setattr(service, "load_unless", loaded)
    group = unique("fault")
    names = zip(("audio", "final", "partial", "rejected", "streams"), astuple(topics), strict=True)
    flags = {f"kafka.{name}_topic": topic for name, topic in names}
    flags |= {"kafka.bootstrap_servers": kafka, "kafka.group": group, "model.source": "none", "telemetry.port": "0"}
    settings = load([text for name, value in flags.items() for text in (f"--{name}", value)])
    sender = Sender(kafka, topics.audio)
    samples, rate = spoken("call-03", 0)
    sender.send("call", stream_of(samples[: 3 * rate], rate), partition=0)
    sender.close()
    assert asyncio.run(asyncio.wait_for(service.Service(settings).run(), 60)) == 1
    assert "the worker stops: tuple index out of range" in caplog.text
    assert committed(kafka, group, topics.audio)[0] == 0
    outputs = Outputs(kafka, topics)
    outputs.poll(1.0)
    assert outputs.finals == []
    outputs.close()
