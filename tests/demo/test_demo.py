"""The demo as a newcomer runs it, faster than real time, on the session's broker."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import jiwer
import pytest

from demo.score import references, word_error_rate
from tests.conftest import require

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def test_the_demo_transcribes_eight_calls_and_ends_with_its_figures(kafka: str) -> None:
    require(find_spec("nemo"), "the worker needs the worker extra (torch, NeMo)")
    done = subprocess.run(
        [sys.executable, "-m", "demo", "--calls", "8", "--speed", "6"],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": kafka},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"calls", "words", "wer", "delay_p50_ms", "delay_p95_ms"}
    true = references()
    assert figures["calls"] == 8
    assert figures["words"] == sum(len(true[f"call-{n:02}/{c}"].split()) for n in range(8) for c in (0, 1))
    assert 0.01 < figures["wer"] <= 0.08  # NeMo offline makes 6.6 % on all ten
    assert 0 < figures["delay_p50_ms"] <= figures["delay_p95_ms"]
    assert "good morning" in done.stdout


def test_the_demo_fails_with_a_sentence_when_kafka_is_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_the_error_rate_counts_as_jiwer_does_also_for_a_call_played_twice() -> None:
    true = references()
    heard = {"call-00/0": true["call-00/0"], "call-00-2/1": true["call-00/1"].replace("thank", "tank")}
    rate, words = word_error_rate(heard)
    assert words == len(true["call-00/0"].split()) + len(true["call-00/1"].split())
    pairs = [true["call-00/0"], true["call-00/1"]], [heard["call-00/0"], heard["call-00-2/1"]]
    assert rate == pytest.approx(jiwer.wer(*pairs))
    assert rate > 0
