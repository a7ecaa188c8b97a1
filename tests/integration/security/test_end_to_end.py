"""A call over SASL and TLS from end to end: producer, worker, Redis and reader each with the rights they need only.

And all that the worker wrote into its log meanwhile, at its most talkative.
"""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from deploy.worker import LocalWorker
from tests.conftest import own_topics
from tests.integration.conftest import ONE_THREAD
from tests.integration.security.broker import PASSWORD, Secure
from tests.integration.support import CALLS, MODEL, ROOT, Outputs, unique
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
    spans: list[Any]  # as the exporters sent them
    traced: dict[str, str]  # event id -> the traceparent of its record

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


@contextmanager
def _collector() -> Iterator[tuple[str, list[Any]]]:
    """An OpenTelemetry collector: its address, and the spans that it was sent."""
    spans: list[Any] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                (service,) = (a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
                spans.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


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
    with local_redis(redis) as store, _collector() as (collector, spans):
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
            "telemetry.traces": "otlp",
        }
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector}
        worker = LocalWorker(
            servers, topics, MODEL, group, ONE_THREAD | settings, environment=environment, zygote=zygote
        )
        with worker:
            produced = _command(
                secure, caller, environment, "produce", str(CALLS / "call-00.flac"), "--topic", topics.audio,
                "--call-id", CALL, "--speed", "8", "--traces", "otlp", "--bootstrap-servers", servers,
            )  # fmt: skip
            assert produced.returncode == 0, produced.stderr
            tailed = _command(
                secure, reader, {}, "tail", "--call", CALL, "--from-beginning", "--until-end", "--json", "--partials",
                "--final-topic", topics.final, "--partial-topic", topics.partial, "--bootstrap-servers", servers,
            )  # fmt: skip
            assert tailed.returncode == 0, tailed.stderr
            assert worker.metric("trunkline_checkpoints_total", outcome="saved") > 0, worker.get("/metrics")
            code = worker.stop()
        outputs = Outputs(secure.kafka.bootstrap_servers, topics)
        heard = outputs.ended([f"{CALL}/0", f"{CALL}/1"])
        outputs.close()
        traced = {out.event.head.id: out.headers["traceparent"] for each in heard.values() for out in each.outs}
        events = [json.loads(line) for line in tailed.stdout.splitlines()]
        return Run(topics, events, worker.log_file.read_text(), code, list(spans), traced)


def _command(secure: Secure, user: str, further: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": user,
        "KAFKA_SASL_PASSWORD": PASSWORD,
        "KAFKA_SSL_CA_FILE": secure.ca,
        **further,
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
    told = [line["message"] for line in of_streams]
    assert re.fullmatch(r"the stream begins at offset \d+", told[0])
    assert told[-1] == "the stream has ended"
    assert all(isinstance(line["partition"], int) for line in of_streams)
    assert any("partition" in line and "stream" not in line for line in run.lines)


def test_a_trace_leads_from_the_producers_record_to_its_event(run):
    sent = {span.span_id: span for service, span in run.spans if service == "trunkline-produce"}
    told = {span.span_id: span for service, span in run.spans if service == "trunkline-worker"}
    assert len(sent) > 20
    assert {span.name.split()[0] for span in sent.values()} == {"send"}
    assert run.traced
    for event, traceparent in run.traced.items():
        _, trace_id, span_id, flags = traceparent.split("-")
        span = told[bytes.fromhex(span_id)]
        assert (span.trace_id.hex(), int(flags, 16) & 1) == (trace_id, 1)  # sampled
        parent = sent[span.parent_span_id]
        assert parent.trace_id == span.trace_id
        named = {each.key: each.value.string_value for each in span.attributes}
        assert named["trunkline.event"] == event
        assert parent.start_time_unix_nano < span.start_time_unix_nano < span.end_time_unix_nano
    assert {span.name for span in told.values()} >= {"transcribe utterance", "transcribe partial"}
