"""What the commands say and do when the broker stands still, dies and comes back."""

import asyncio
import re
import signal
import subprocess
import time

import pytest

from bench.producer_cost import feed, held
from tests.producer.broker import standing_still, topics_on
from tests.producer.support import payload, pcm, read_all, streams
from tests.producer.tailing import Tail, Worker, ended, said
from tests.producer.test_cli import CALLS, COMMAND, ROOT
from wire.records import Audio

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


def test_what_was_dropped_is_not_called_confirmed_and_the_code_is_1(broker, topics):
    process = subprocess.Popen(
        [
            *(*COMMAND, "--raw", "--channels", "2", "--when-full", "drop", "--queue-mb", "1", "-"),
            *("--bootstrap-servers", broker.bootstrap_servers, "--topic", topics.audio),
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    second = pcm(2 * 8000)
    try:
        process.stdin.write(2 * second)
        process.stdin.flush()
        some_audio(broker, topics, process)
        with standing_still(broker):
            process.stdin.write(88 * second)
            process.stdin.flush()
            time.sleep(1)
        stdout, stderr = (text.decode() for text in process.communicate(timeout=60))
    finally:
        process.kill()
    there = min(
        sum(len(record.payload) for record in records if isinstance(record, Audio)) / 16000
        for records in streams(broker.bootstrap_servers, topics.audio).values()
    )
    assert 20 < there < 80
    ended, total = stdout.splitlines()
    assert ended == f"stdin: {there:.1f} of 90.0 s confirmed, {90 - there:.1f} s dropped"
    assert total.endswith(": 1 calls lack audio")
    assert f"stdin: {90 - there:.1f} s of audio were dropped, since the queue was full" in stderr
    assert process.returncode == 1


def test_a_bench_counts_the_time_until_a_record_is_confirmed(broker, topics):
    async def measure():
        feeding = asyncio.create_task(feed("library", broker.bootstrap_servers, topics.audio, 2, 2))
        await asyncio.sleep(1.5)
        with standing_still(broker):
            await asyncio.sleep(1)
        return await feeding

    row = asyncio.run(measure())
    assert 600 < row["late_p99_ms"] < 2000
    assert not held(row, 100)


def test_tail_goes_on_when_the_broker_is_back(broker, topics):
    with Tail(broker.bootstrap_servers, topics, "--stream", "c", "--json", "--until-end") as tail:
        Worker(broker.bootstrap_servers, topics).tell(said("c", 0, "before"))
        assert '"before"' in tail.line()
        broker.kill()
        broker.start()
        Worker(broker.bootstrap_servers, topics).tell(said("c", 1, "after"), ended("c", 2))
        lines, errors = tail.end(60)
    assert (len(lines), errors, tail.process.returncode) == (2, "", 0)
