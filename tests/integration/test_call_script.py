"""Script of `helm test`, `helm/trunkline/files/test/call.sh`: passes if a call is heard, else says what is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from deploy.server import free_ports
from tests.integration.conftest import Service
from tests.integration.support import ROOT
from wire import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SCRIPT = ROOT / "helm" / "trunkline" / "files" / "test" / "call.sh"
COMMAND = f'PYTHONPATH={ROOT} exec {sys.executable} -m trunkline "$@"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The script and its call, as they are mounted, and `trunkline` of this checkout."""
    for name in ("call.sh", "call.flac"):
        shutil.copy(SCRIPT.parent / name, tmp_path)
    program = tmp_path / "trunkline"
    program.write_text(f"#!/bin/sh\n{COMMAND}")
    program.chmod(0o755)
    return tmp_path


def _run(folder: Path, servers: str, topics: Topics, seconds: int = 90) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", folder / "call.sh", topics.audio, topics.final, topics.partial, str(seconds)],
        env={"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(folder), "KAFKA_BOOTSTRAP_SERVERS": servers},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_call_that_is_heard_passes_and_its_words_are_printed(folder: Path, service: Service) -> None:
    done = _run(folder, service.servers, service.topics)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert any(event["type"] == "utterance" and event["text"] for event in events)
    assert events[-1]["type"] == "end"


def test_a_call_without_words_fails(folder: Path, service: Service) -> None:
    soundfile.write(folder / "call.flac", np.zeros(16_000), 16_000)
    done = _run(folder, service.servers, service.topics)
    assert done.returncode == 1
    assert "the call has ended and no words were heard" in done.stdout


def test_a_call_that_nobody_hears_ends_in_time_and_the_worker_is_asked_for(
    folder: Path, kafka: str, topics: Topics
) -> None:
    done = _run(folder, kafka, topics, seconds=20)
    assert done.returncode == 1
    assert "not heard to its end in 20 s: is a worker ready?" in done.stdout


def test_a_warning_before_the_transcripts_can_be_read_is_no_failure(folder: Path, service: Service) -> None:
    (folder / "trunkline").write_text(
        f'#!/bin/sh\n[ "$1" = tail ] && {{ echo "a library warns" >&2; sleep 2; }}\n{COMMAND}'
    )
    done = _run(folder, service.servers, service.topics)
    assert done.returncode == 0, done.stdout + done.stderr


def test_brokers_that_do_not_answer_are_named(folder: Path, service: Service) -> None:
    (port,) = free_ports(1)
    done = _run(folder, f"127.0.0.1:{port}", service.topics)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stdout
    assert "the transcripts cannot be read" in done.stdout


def test_a_call_that_cannot_be_sent_fails(folder: Path, service: Service) -> None:
    (folder / "call.flac").write_bytes(b"no sound at all")
    done = _run(folder, service.servers, service.topics)
    assert done.returncode != 0
    assert "call.flac" in done.stdout + done.stderr
