"""`trunkline tail` where it cannot read or cannot write."""

import json
import subprocess
from pathlib import Path

import pytest
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient

from tests.conftest import own_topics
from tests.producer.tailing import COMMAND, Tail, Worker, ended, said
from tests.producer.test_cli import ROOT
from wire import encode_final


@pytest.fixture
def worker(kafka, topics):
    return Worker(kafka, topics)


def zstd(kafka, topics, *events) -> None:
    """Events in one batch that is compressed."""
    client = Client({"bootstrap.servers": kafka, "compression.type": "zstd", "linger.ms": 200})
    for event in events:
        client.produce(topics.final, encode_final(event), event.head.stream, partition=0)
    assert client.flush(20) == 0


@pytest.mark.kafka
def test_compressed_transcripts_are_read_where_the_codec_is_there_and_else_it_is_named(kafka, topics, tmp_path):
    (tmp_path / "cramjam.py").write_text("raise ImportError('not installed')")
    with (
        Tail(kafka, topics, "--json") as able,
        Tail(kafka, topics, environment={"PYTHONPATH": str(tmp_path)}) as unable,
    ):
        zstd(kafka, topics, *(said("c", number, "word " * 100) for number in range(3)))
        assert [json.loads(able.line())["number"] for _ in range(3)] == [0, 1, 2]
        lines, errors = unable.end()
    assert (unable.process.returncode, lines) == (1, [])
    assert errors.startswith("trunkline tail: transcripts cannot be unpacked (")
    assert errors.endswith("pip install cramjam\n")
    assert len(errors.splitlines()) == 1


def test_who_only_produces_and_reads_along_gets_the_codecs_too():
    assert "\ncramjam==" in (ROOT / "deploy" / "producer.lock").read_text()


@pytest.mark.kafka
def test_no_colour_in_the_environment_makes_a_terminal_of_a_pipe(kafka, topics, worker):
    environment = {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}
    with Tail(kafka, topics, "--stream", "c", "--until-end", environment=environment) as tail:
        worker.tell(said("c", 0, "hello"), ended("c", 1))
        lines, _ = tail.end()
    assert lines[0] == "[c] 0:01.20 hello"
    assert len(lines) == 2


@pytest.mark.kafka
@pytest.mark.parametrize("view", [[], ["--json"]], ids=["lines", "json"])
def test_a_full_disk_is_exit_1_and_said(kafka, topics, worker, view):
    with Path("/dev/full").open("wb") as full, Tail(kafka, topics, "--stream", "c", *view, stdout=full) as tail:
        worker.tell(said("c", 0, "hello"))
        assert tail.process.wait(20) == 1
        assert tail.process.stderr.read() == b"trunkline tail: standard output: No space left on device\n"


@pytest.mark.kafka
def test_a_topic_that_is_deleted_meanwhile_is_exit_1_and_named(kafka):
    admin = AdminClient({"bootstrap.servers": kafka})
    with own_topics(kafka) as topics, Tail(kafka, topics) as tail:
        admin.delete_topics([topics.final])[topics.final].result(20)
        _, errors = tail.end()
    assert (tail.process.returncode, errors) == (1, f"trunkline tail: topic {topics.final} is no longer on {kafka}\n")


def test_a_closed_output_is_exit_1():
    done = subprocess.run(
        ["bash", "-c", '"$@" >&-', "bash", *COMMAND], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "trunkline tail: standard output is closed\n")
