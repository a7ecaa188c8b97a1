"""A worker that cannot work says why and what to do, and ends."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from confluent_kafka.admin import AdminClient

from deploy.worker import LocalWorker
from tests.conftest import PARTITIONS, own_topics
from tests.integration.conftest import ONE_THREAD
from tests.integration.support import MODEL, ROOT
from wire import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


LACK = f"nowhere.{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def said(kafka: str) -> Iterator[dict[str, str]]:
    """What each worker that could not start printed. All at once: most of the time is the import of torch."""
    with (
        own_topics(kafka) as names,
        own_topics(kafka, PARTITIONS * 2) as others,
        own_topics(kafka) as alike,
        socket.create_server(("127.0.0.1", 0)) as server,  # takes connections and never answers
        socket.socket() as held,
    ):
        held.bind(("127.0.0.1", 0))
        silent, closed = (f"127.0.0.1:{s.getsockname()[1]}" for s in (server, held))
        impatient = {"kafka.request_timeout_ms": 2000}
        workers = {
            "missing": worker(kafka, replace(names, audio=f"{LACK}.audio", streams=f"{LACK}.streams")),
            "unequal": worker(kafka, replace(names, final=others.final, streams=others.streams)),
            "table": worker(kafka, replace(names, streams=alike.partial)),
            "look-ahead": worker(kafka, names, {"model.look_ahead": 5}),
            "model": worker(kafka, names, {"model.source": "/nowhere/model.nemo"}),
            "port": worker(kafka, names, {"telemetry.port": server.getsockname()[1]}),
            "closed": worker(closed, names, impatient),
            "silent": worker(silent, names, impatient),
        }
        for each in workers.values():
            each.start(wait=False)
        try:
            printed = {kind: ending(each) for kind, each in workers.items()}
            yield printed
        finally:
            for each in workers.values():
                each.kill()


def worker(servers: str, topics: Topics, settings: dict[str, object] | None = None) -> LocalWorker:
    return LocalWorker(servers, topics, MODEL, settings=ONE_THREAD | (settings or {}))


def ending(worker: LocalWorker) -> str:
    """All that it printed. It must end by itself, with code 1 and no traceback."""
    assert worker.process.wait(120) == 1, worker.log_tail()
    text = worker.log_tail(100)
    assert "Traceback" not in text
    return text


def test_missing_topics_are_named_and_never_created(said: dict[str, str], kafka: str) -> None:
    for name in (f"{LACK}.audio", f"{LACK}.streams"):
        assert f"Topic {name} does not exist" in said["missing"]
    assert "trunkline topics create" in said["missing"]
    assert not [n for n in AdminClient({"bootstrap.servers": kafka}).list_topics(timeout=20).topics if LACK in n]


def test_unequal_partition_counts_are_refused(said: dict[str, str]) -> None:
    for topic in ("transcripts.final", "trunkline.streams"):
        assert re.search(
            rf"Topic {topic}\.\w+ has {PARTITIONS * 2} partitions and audio\.chunks\.\w+ has {PARTITIONS}",
            said["unequal"],
        )


def test_a_stream_table_with_other_settings_is_refused(said: dict[str, str]) -> None:
    for setting in (
        "cleanup.policy=delete; the worker needs cleanup.policy=compact",
        "segment.bytes",
        "max.compaction.lag",
    ):
        assert setting in said["table"]


def test_a_look_ahead_that_the_model_lacks_is_refused(said: dict[str, str]) -> None:
    assert "model.look_ahead is 5: demo@" in said["look-ahead"]
    assert "13, 6, 1, 0" in said["look-ahead"]


def test_a_model_file_that_is_not_there_is_refused(said: dict[str, str]) -> None:
    assert "no model file at '/nowhere/model.nemo'" in said["model"]


def test_no_broker_is_said(said: dict[str, str]) -> None:
    for kind in ("closed", "silent"):
        assert re.search(r"Kafka at 127\.0\.0\.1:\d+\b", said[kind]), said[kind]


def test_a_telemetry_port_in_use_is_said(said: dict[str, str]) -> None:
    assert re.search(r"telemetry\.port 127\.0\.0\.1:\d+: Address already in use", said["port"])


def test_all_wrong_settings_are_named_at_once() -> None:
    flags = {"batching.slots": "0", "stream.endpoint_ms": "soon", "model.decoder": "best", "telemetry.port": "70000"}
    command = [sys.executable, "-m", "trunkline", "worker", *(t for n, v in flags.items() for t in (f"--{n}", v))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert all(name in done.stderr for name in [*flags, "model.source"])
    assert "Traceback" not in done.stderr


def test_a_stop_while_the_model_loads_ends_the_worker_at_once(kafka: str) -> None:
    with own_topics(kafka) as names:
        loading = worker(kafka, names)
        loading.start(wait=False)
        deadline = time.monotonic() + 60
        while _ready_page(loading) != "loading the model\n":
            assert time.monotonic() < deadline, loading.log_tail()
            time.sleep(0.05)
        began = time.monotonic()
        assert loading.stop() == 0, loading.log_tail()
        assert time.monotonic() - began < 10
        assert "told to stop while loading the model" in loading.log_tail()


def _ready_page(loading: LocalWorker) -> str:
    try:
        return loading.get("/readyz")
    except OSError:
        pass
    try:
        urllib.request.urlopen(f"{loading.address}/readyz", timeout=5)
    except urllib.error.HTTPError as error:
        return str(error.read().decode())
    except OSError:
        pass
    return ""
