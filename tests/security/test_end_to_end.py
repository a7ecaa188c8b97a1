"""A call over SASL and TLS from end to end: producer, worker, Redis and reader each with the rights they need only.

And all that the worker wrote into its log meanwhile, at its most talkative.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise

import pytest

from deploy.worker import LocalWorker
from tests.conftest import own_topics
from tests.integration.conftest import ONE_THREAD
from tests.integration.support import CALLS, MODEL, ROOT, unique
from tests.security.broker import PASSWORD, Secure
from tests.state.conftest import local_redis
from wire import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

CALL = "secret-call"
REDIS_PASSWORD = "redis-battery-staple"


@dataclass
class Run:
    """What came of the call: events as `tail --json` printed them, the worker's whole log, its exit code."""

    topics: Topics
    events: list[dict]
    log: str
    code: int

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.splitlines()]

    @property
    def words(self) -> list[str]:
        """Every two words that follow each other in what was said."""
        texts = [event["text"].lower().split() for event in self.events if event["type"] == "utterance"]
        return [" ".join(pair) for text in texts for pair in pairwise(text)]


@pytest.fixture(scope="module")
def run(secure, zygote, tmp_path_factory):
    with own_topics(secure.kafka.bootstrap_servers) as topics:
        yield _run(secure, zygote, topics, tmp_path_factory.mktemp("run"))


def _run(secure: Secure, zygote, topics, folder) -> Run:
    servers, group = secure.kafka.address("SECURE"), unique("secure")
    worker_user, caller, reader = (unique(name) for name in ("worker", "caller", "reader"))
    for user in (worker_user, caller, reader):
        secure.user(user)
    secure.may_work(worker_user, topics, group)
    secure.allow(caller, "TOPIC", topics.audio, "WRITE")
    for name in (topics.final, topics.partial):
        secure.allow(reader, "TOPIC", name, "READ")
    (folder / "password").write_text(f"{PASSWORD}\n")
    (folder / "redis").write_text(f"{REDIS_PASSWORD}\n")
    broker = secure.authority.folder / "broker"
    redis = {
        "tls-cert-file": f"{broker}.pem",
        "tls-key-file": f"{broker}.key",
        "tls-ca-cert-file": secure.ca,
        "tls-auth-clients": "no",
        "user": f"worker on >{REDIS_PASSWORD} ~trunkline:* +set +get +unlink +ping",
    }
    with local_redis(redis) as store:
        settings = {
            "kafka.security_protocol": "SASL_SSL",
            "kafka.sasl_username": worker_user,
            "kafka.sasl_password_file": folder / "password",
            "kafka.ssl_ca_file": secure.ca,
            "state.store": "redis",
            "state.redis_url": store.url,
            "state.redis_username": "worker",
            "state.redis_password_file": folder / "redis",
            "state.redis_ca_file": secure.ca,
            "state.checkpoint_after_ms": 500,
            "telemetry.log_level": "debug",
        }
        worker = LocalWorker(servers, topics, MODEL, group, ONE_THREAD | settings, zygote=zygote)
        with worker:
            produced = _command(
                secure, caller, "produce", str(CALLS / "call-00.flac"), "--topic", topics.audio, "--call-id", CALL,
                "--speed", "4", "--bootstrap-servers", servers,
            )  # fmt: skip
            assert produced.returncode == 0, produced.stderr
            tailed = _command(
                secure, reader, "tail", "--call", CALL, "--from-beginning", "--until-end", "--json", "--partials",
                "--final-topic", topics.final, "--partial-topic", topics.partial, "--bootstrap-servers", servers,
            )  # fmt: skip
            assert tailed.returncode == 0, tailed.stderr
            assert worker.metric("trunkline_checkpoints_total", outcome="saved") > 0, worker.get("/metrics")
            code = worker.stop()
        return Run(topics, [json.loads(line) for line in tailed.stdout.splitlines()], worker.log_file.read_text(), code)


def _command(secure: Secure, user: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CA_FILE": secure.ca,
    }
    return subprocess.run(
        [sys.executable, "-m", "trunkline", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90,
    )  # fmt: skip


def test_the_call_comes_back_as_words(run):
    assert run.code == 0
    streams = {event["stream"] for event in run.events if event["type"] == "utterance" and event["text"]}
    assert streams == {f"{CALL}/0", f"{CALL}/1"}
    assert len([event for event in run.events if event["type"] == "end"]) == 2
    assert len(run.words) > 20


def test_nothing_that_was_said_is_in_the_log(run):
    text = run.log.lower()
    assert [pair for pair in run.words if pair in text] == []
    assert not re.search(r"(\\\\x[0-9a-f]{2}){2}", run.log)  # bytes as Python prints them
    for secret in (PASSWORD, REDIS_PASSWORD):
        assert secret not in run.log


def test_the_log_is_talkative_and_every_line_an_object_with_its_context(run):
    assert {"debug", "info"} <= {line["level"] for line in run.lines}
    assert any(line["logger"].startswith("aiokafka") for line in run.lines)
    of_streams = [line for line in run.lines if line.get("stream") == f"{CALL}/0"]
    assert {"the stream begins at offset 0", "the stream has ended"} >= {line["message"] for line in of_streams[-1:]}
    assert all(isinstance(line["partition"], int) for line in of_streams)
    assert any("partition" in line and "stream" not in line for line in run.lines)
