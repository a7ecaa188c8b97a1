"""What the commands say and do when the broker stands still, dies and comes back."""

import re
import signal
import subprocess
import time

import pytest

from tests.producer.broker import standing_still, topics_on
from tests.producer.support import payload, read_all, streams
from tests.producer.tailing import Tail, Worker, ended, said
from tests.producer.test_cli import CALLS, COMMAND, ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def topics(broker):
    with topics_on(broker) as names:
        yield names


def command(broker, topics, *arguments) -> subprocess.Popen:
    """`trunkline produce` of one stereo call in real time."""
    return subprocess.Popen(
        [
            *(*COMMAND, str(CALLS / "call-03.flac"), *arguments),
            *("--bootstrap-servers", broker.bootstrap_servers, "--topic", topics.audio),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def some_audio(broker, topics, process) -> None:
    """Return when audio has arrived."""
    deadline = time.monotonic() + 60
    while len(read_all(broker.bootstrap_servers, topics.audio)) < 20:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_command_names_what_is_not_confirmed_and_exits_with_1(broker, topics):
    process = command(broker, topics, "--delivery-timeout", "4")
    try:
        some_audio(broker, topics, process)
        with standing_still(broker):
            stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "Kafka does not answer" in stderr
    for channel in range(2):
        found = re.search(rf"call call-03/{channel}: not confirmed from position (\d+) \((\S+) s\) to (\d+) ", stderr)
        assert found, stderr
        assert int(found[1]) < int(found[3])
        assert float(found[2]) == int(found[1]) / 16000
    assert stdout.splitlines()[-1].endswith("1 calls failed")
    assert "Traceback" not in stderr


def test_the_command_says_when_kafka_is_back(broker, topics):
    process = command(broker, topics)
    try:
        some_audio(broker, topics, process)
        with standing_still(broker):
            time.sleep(5)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    silent, back, interrupted = stderr.splitlines()
    assert silent.startswith("Kafka does not answer; ")
    assert back == "Kafka answers again"
    assert interrupted.startswith("interrupted: ")
    assert process.returncode == 130
    assert all(payload(records) for records in streams(broker.bootstrap_servers, topics.audio).values())


def test_after_an_interrupt_what_is_not_confirmed_is_named_too_and_the_code_is_1(broker, topics):
    process = command(broker, topics, "--delivery-timeout", "3")
    try:
        some_audio(broker, topics, process)
        with standing_still(broker):
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert stderr.count("not confirmed from position") == 2


def test_a_second_interrupt_stops_at_once(broker, topics):
    process = command(broker, topics)
    try:
        some_audio(broker, topics, process)
        with standing_still(broker):
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)  # the deadline is two minutes away
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            assert process.wait(5) == 130
            assert time.monotonic() - began < 1
        assert process.stderr.read().splitlines()[-1] == "interrupted twice: calls may lack their end"
    finally:
        process.kill()


def test_tail_goes_on_when_the_broker_is_back(broker, topics):
    with Tail(broker.bootstrap_servers, topics, "--stream", "c", "--json", "--until-end") as tail:
        Worker(broker.bootstrap_servers, topics).tell(said("c", 0, "before"))
        assert '"before"' in tail.line()
        broker.kill()
        broker.start()
        Worker(broker.bootstrap_servers, topics).tell(said("c", 1, "after"), ended("c", 2))
        lines, errors = tail.end(60)
    assert (len(lines), errors, tail.process.returncode) == (2, "", 0)
