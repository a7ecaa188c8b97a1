"""Compressed batches: read where the codec is there; elsewhere rejected, and the streams beside them go on."""

from pathlib import Path

import pytest

from deploy.worker import LocalWorker
from tests.conftest import own_topics
from tests.integration.conftest import ONE_THREAD, Service
from tests.integration.oracle import Oracle
from tests.integration.sending import Sender, audio, spoken, start, stream_of
from tests.integration.support import MODEL, Outputs, unique
from wire import End

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_codec_of_kafka_is_read(service: Service, codec: str) -> None:
    samples, rate = spoken("call-03", 1)
    sender = Sender(service.servers, service.topics.audio, codec)
    sender.send(f"packed-{codec}", stream_of(samples[: 6 * rate], rate))
    sender.close()
    heard = service.outputs.heard(f"packed-{codec}")
    plain = service.sender
    plain.send(f"plain-{codec}", stream_of(samples[: 6 * rate], rate))
    assert heard.text == service.outputs.heard(f"plain-{codec}").text != ""


def test_batches_of_a_codec_that_is_not_installed_are_stepped_over(kafka: str, oracle: Oracle, tmp_path: Path) -> None:
    (tmp_path / "cramjam.py").write_text("raise ImportError('not installed')")
    samples, rate = spoken("call-03", 0)
    good, half = stream_of(samples, rate), 100
    with own_topics(kafka) as topics:
        outputs, plain, packed = (
            Outputs(kafka, topics),
            Sender(kafka, topics.audio),
            Sender(kafka, topics.audio, "zstd"),
        )
        worker = LocalWorker(
            kafka, topics, MODEL, unique("codecs"), ONE_THREAD, environment={"PYTHONPATH": str(tmp_path)}
        )
        with worker:
            plain.send("good", good[:half], partition=1)
            bad = packed.send("packed", [start(rate), *audio(samples[:rate], rate), End("one")], partition=1)
            plain.send("good", good[half:], partition=1)
            plain.send("other", good, partition=3)
            heard = outputs.ended(["good", "other"])
            outputs.until(lambda: len(outputs.rejected) >= len(bad), "the rejected records", 20)
            assert worker.metric("trunkline_records_rejected_total", reason="codec_not_available") == len(bad)
        for stream in ("good", "other"):
            oracle.check(heard[stream], samples, rate)
        assert {out.event.reason for out in outputs.rejected} == {"codec_not_available"}
        assert sorted(int(out.headers["offset"]) for out in outputs.rejected) == [offset for _, offset in bad]
        assert {(out.partition, out.key) for out in outputs.rejected} == {(1, None)}
        plain.close()
        packed.close()
        outputs.close()
