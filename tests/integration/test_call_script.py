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

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SCRIPT = ROOT / "helm" / "trunkline" / "files" / "test" / "call.sh"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The script and its call, as they are mounted, and `trunkline` of this checkout."""
    for name in ("call.sh", "call.flac"):
        shutil.copy(SCRIPT.parent / name, tmp_path)
    program = tmp_path / "trunkline"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m trunkline "$@"\n')
    program.chmod(0o755)
    return tmp_path


def _run(folder: Path, servers: str, service: Service) -> subprocess.CompletedProcess[str]:
    topics = service.topics
    return subprocess.run(
        ["sh", folder / "call.sh", topics.audio, topics.final, topics.partial],
        env={"PATH": f"{folder}:/usr/bin:/bin", "TMPDIR": str(folder), "KAFKA_BOOTSTRAP_SERVERS": servers},
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_call_that_is_heard_passes_and_its_words_are_printed(folder: Path, service: Service) -> None:
    done = _run(folder, service.servers, service)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert any(event["type"] == "utterance" and event["text"] for event in events)
    assert events[-1]["type"] == "end"


def test_a_call_without_words_fails(folder: Path, service: Service) -> None:
    soundfile.write(folder / "call.flac", np.zeros(16_000), 16_000)
    done = _run(folder, service.servers, service)
    assert done.returncode == 1
    assert "the call has ended and no words were heard" in done.stdout


def test_brokers_that_do_not_answer_are_named(folder: Path, service: Service) -> None:
    (port,) = free_ports(1)
    done = _run(folder, f"127.0.0.1:{port}", service)
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stdout
    assert "the transcripts cannot be read" in done.stdout


def test_a_call_that_cannot_be_sent_fails(folder: Path, service: Service) -> None:
    (folder / "call.flac").write_bytes(b"no sound at all")
    done = _run(folder, service.servers, service)
    assert done.returncode != 0
    assert "call.flac" in done.stdout + done.stderr
