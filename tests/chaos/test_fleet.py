"""Whose end is a crash, and whose is as it should be."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.fleet import GIVES_UP_S, LEAVES_S, Fleet, Seat

LISTENING = '{"level": "info", "message": "metrics at http://127.0.0.1:9090/metrics"}\n'
NO_BROKER = '{"level": "critical", "logger": "worker", "message": "Kafka at 127.0.0.1:9092 does not answer"}\n'


@dataclass
class Worker:
    """A process that ends as it is told, and what it has logged."""

    process: subprocess.Popen[bytes]
    log_file: Path


@dataclass
class Outside:
    broker_back: float = float("-inf")


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """One worker, in its seat; nothing replaces it within the test."""
    never: Any = None
    found = Fleet(never, 0, iter(()), never, Outside(), 1, 0, 3.0)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    worker: Any = Worker(process, tmp_path / "log")
    worker.log_file.write_text("")
    found._seats = [Seat("seat", worker=worker)]
    yield found
    process.kill()
    process.communicate()


def end(fleet: Fleet, log: str, code: int) -> list[Any]:
    """The crashes, after the worker has logged this and ended with this code."""
    worker: Any = fleet._seats[0].worker
    worker.log_file.write_text(log)
    if code < 0:
        worker.process.send_signal(-code)
        worker.process.wait()
    else:
        worker.process.communicate(b"\n" if code == 0 else b"")
    assert worker.process.returncode == code
    fleet.tick(100.0)
    return fleet.crashes


@pytest.mark.parametrize(
    ("log", "code", "crashes"),
    [
        (LISTENING, 0, 0),
        (LISTENING, 1, 1),
        (LISTENING, -signal.SIGTERM, 1),  # it listens to that, and should have left
        ("", -signal.SIGTERM, 0),
        (LISTENING, -signal.SIGSEGV, 1),
        (LISTENING, -signal.SIGKILL, 0),  # by us
        (LISTENING + NO_BROKER, 1, 1),  # the broker was there all the time
    ],
)
def test_what_a_crash_is(fleet: Fleet, log: str, code: int, crashes: int) -> None:
    assert len(end(fleet, log, code)) == crashes


@pytest.mark.parametrize(
    ("back", "crashes"), [(float("inf"), 0), (99.0, 0), (100.0 - GIVES_UP_S - 1, 1), (float("-inf"), 1)]
)
def test_giving_up_is_for_when_the_broker_is_away_or_just_back(fleet: Fleet, back: float, crashes: int) -> None:
    fleet._outside.broker_back = back
    assert len(end(fleet, LISTENING + NO_BROKER, 1)) == crashes


def test_a_worker_that_is_told_to_leave_and_stays_is_one_and_is_ended(fleet: Fleet) -> None:
    seat = fleet._seats[0]
    seat.told = 10.0
    fleet.tick(10.0 + LEAVES_S)
    assert not fleet.crashes
    fleet.tick(10.0 + LEAVES_S + 1)
    assert fleet.crashes == [seat.worker]
    assert seat.worker is not None
    assert seat.worker.process.wait(5) == -signal.SIGKILL
