"""`trunkline tail` as its users run it, on events written by librdkafka."""

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import time
from dataclasses import replace

import pytest
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient

from tests.producer.tailing import COMMAND, Screen, Tail, Worker, ended, guess, head, said
from tests.producer.test_cli import ROOT
from wire import Gap, Marker


@pytest.fixture
def worker(kafka, topics):
    return Worker(kafka, topics)


@pytest.mark.kafka
def test_one_stream_as_json_with_every_field_until_its_end(kafka, topics, worker):
    words = said("call-7/1", 0, "hello there", call="call-7", channel="customer")
    words = replace(words, head=replace(words.head, language="en", metadata={"site": "Tromsø", "n": 2}))
    flushed, hole = Marker(head("call-7/1", 1), "now", 3400), Gap(head("call-7/1", 2), 3400, 3900)
    worker.tell(said("call-7/0", 0, "not asked for"), words)
    with Tail(kafka, topics, "--json", "--stream", "call-7/1", "--from-beginning", "--until-end") as tail:
        assert json.loads(tail.line()) == {
            "type": "utterance",
            "id": "call-7/1/0-5/0",
            "stream": "call-7/1",
            "number": 0,
            "model": "m",
            "offsets": [5, 14],
            "call_id": "call-7",
            "channel": "customer",
            "language": "en",
            "metadata": {"site": "Tromsø", "n": 2},
            "text": "hello there",
            "words": [{"text": w, "start": 1200, "end": 3400, "confidence": 0.5} for w in ("hello", "there")],
            "start": 1200,
            "end": 3400,
            "reason": "silence",
        }
        worker.tell(flushed, hole, ended("call-7/0", 1))
        marker, gap = json.loads(tail.line()), json.loads(tail.line())  # each line comes as it is made
        assert (marker["type"], marker["flush_id"], marker["time"]) == ("marker", "now", 3400)
        assert (gap["type"], gap["start"], gap["end"]) == ("gap", 3400, 3900)
        worker.tell(ended("call-7/1", 3))
        (line,), errors = tail.end()
        assert json.loads(line)["type"] == "end"
        assert json.loads(line)["gap_ms"] == 500
        assert (tail.process.returncode, errors) == (0, "")


@pytest.mark.kafka
def test_finals_of_an_aborted_transaction_are_not_shown_and_those_that_come_twice_once(kafka, topics, worker):
    first, second, last = said("c", 0, "one"), said("c", 1, "two"), ended("c", 2)
    with Tail(kafka, topics, "--stream", "c", "--json", "--until-end") as tail:
        worker.tell(said("c", 0, "never was"), commit=False)
        worker.tell(first)
        worker.tell(first, second)
        worker.tell(first, second, last)
        lines, _ = tail.end()
    assert [json.loads(line)["number"] for line in lines] == [0, 1, 2]
    assert [json.loads(line).get("text") for line in lines] == ["one", "two", None]


@pytest.mark.kafka
def test_a_stream_id_used_again_is_told_again_and_a_restart_is_no_end(kafka, topics, worker):
    with Tail(kafka, topics, "--stream", "c", "--json", "--until-end") as tail:
        worker.tell(said("c", 0, "one"), ended("c", 1, reason="restarted"))
        worker.tell(said("c", 0, "two", offset=70), ended("c", 1, offset=70))
        lines, _ = tail.end()
    found = [(json.loads(line)["number"], json.loads(line).get("text")) for line in lines]
    assert found == [(0, "one"), (1, None), (0, "two"), (1, None)]


@pytest.mark.kafka
def test_a_call_is_all_its_streams_and_ends_with_the_last(kafka, topics, worker):
    with Tail(kafka, topics, "--call", "call-7", "--until-end") as tail:
        worker.tell(said("call-7/0", 0, "by its id"), said("x", 0, "by its call", call="call-7", channel="left"))
        worker.tell(said("call-70/0", 0, "another"), said("call-7/2", 0, "another too", call="call-8"))
        worker.tell(ended("call-7/0", 1), ended("call-70/0", 1))
        found = sorted(tail.line() for _ in range(3))
        time.sleep(4)
        assert tail.process.poll() is None
        worker.tell(ended("x", 1, call="call-7"))
        lines, _ = tail.end()
    assert found == [
        "[call-7/0] 0:01.20 by its id",
        "[call-7/0] 1:02:03.45 (end: 1 utterances, 7 words, 0.50 s never came)",
        "[x left] 0:01.20 by its call",
    ]
    assert lines == ["[x] 1:02:03.45 (end: 1 utterances, 7 words, 0.50 s never came)"]


@pytest.mark.kafka
def test_all_calls_from_now_on_on_plain_lines_without_what_a_terminal_would_obey(kafka, topics, worker):
    worker.tell(said("old", 0, "before"))
    with Tail(kafka, topics) as tail:
        assert tail.greeting == "following all calls from now on\n"
        worker.tell(
            said("evil\x1b[2J", 0, "red \x1b[31malert\nnext"),
            Marker(head("evil\x1b[2J", 1), "f\r1", 900),
            Gap(head("evil\x1b[2J", 2), 900, 2150),
            said("evil\x1b[2J", 3, ""),
            ended("evil\x1b[2J", 4, reason="idle"),
        )
        assert [tail.line() for _ in range(4)] == [
            "[evil\ufffd[2J] 0:01.20 red \ufffd[31malert\ufffdnext",
            "[evil\ufffd[2J] 0:00.90 (flush f\ufffd1: all before is final)",
            "[evil\ufffd[2J] 0:00.90 (gap: 1.25 s of audio never came)",
            "[evil\ufffd[2J] 1:02:03.45 (end (idle): 4 utterances, 7 words, 0.50 s never came)",
        ]
        tail.process.send_signal(signal.SIGINT)
        assert tail.end() == ([], "")
        assert tail.process.returncode == 130


@pytest.mark.kafka
def test_partials_are_a_choice_and_never_older_than_their_final(kafka, topics, worker):
    with Tail(kafka, topics, "--partials", "--stream", "c", "--until-end") as tail:
        worker.tell(guess("c", 0, "hel"))
        assert tail.line() == "[c] 0:01.20 ~ hel"
        worker.tell(said("c", 0, "hello"))
        assert tail.line() == "[c] 0:01.20 hello"
        worker.tell(guess("c", 0, "hello late"), guess("c", 1, "new"))
        assert tail.line() == "[c] 0:01.20 ~ new"
        worker.tell(ended("c", 1))
        assert len(tail.end()[0]) == 1


@pytest.mark.kafka
def test_one_stream_is_read_from_its_partition_only_and_no_group_is_joined(kafka, topics, worker):
    admin = AdminClient({"bootstrap.servers": kafka})
    before = {group.group_id for group in admin.list_consumer_groups().result().valid}
    # call-7/0 is in partition 2 of 4 (docs/wire.md)
    worker.tell(said("call-7/0", 0, "strayed"), partition=1)
    worker.tell(said("call-7/0", 1, "at home"), partition=2)
    with Tail(kafka, topics, "--stream", "call-7/0", "--from-beginning") as tail:
        assert tail.line() == "[call-7/0] 0:01.20 at home"
        assert {group.group_id for group in admin.list_consumer_groups().result().valid} == before


@pytest.mark.kafka
def test_a_value_that_is_no_event_is_said_and_passed_over(kafka, topics, worker):
    client = Client({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    with Tail(kafka, topics, "--stream", "c", "--json", "--until-end") as tail:
        client.produce(topics.final, b"\x81", "c")
        assert client.flush(20) == 0
        worker.tell(ended("c", 0))
        (line,), errors = tail.end()
    assert json.loads(line)["type"] == "end"
    assert "offset 0 is not a transcript event" in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.kafka
def test_when_the_reader_has_gone_it_ends_quietly_without_another_event(kafka, topics, worker):
    worker.tell(*(said("c", number, "word " * 50) for number in range(5)))
    with Tail(kafka, topics, "--json", "--from-beginning") as tail:
        assert json.loads(tail.line())["number"] == 0
        tail.process.stdout.close()
        assert tail.process.wait(5) == 0
        assert tail.process.stderr.read() == b""
        tail.process.stdout = None


@pytest.mark.kafka
def test_on_a_terminal_partials_are_overwritten_in_place(kafka, topics, worker):
    here, there = pty.openpty()
    screen = Screen()
    environment = {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    with Tail(kafka, topics, "--stream", "c", "--until-end", stdout=there, environment=environment) as tail:
        os.close(there)

        def shows(*lines: str) -> None:
            deadline = time.monotonic() + 20
            while screen.shown != [f"[c] 0:01.20 {line}" for line in lines]:
                assert select.select([here], [], [], max(0, deadline - time.monotonic()))[0], screen.shown
                screen.write(os.read(here, 65536).decode())

        worker.tell(guess("c", 0, "good mor"))
        shows("good mor")
        worker.tell(guess("c", 0, "good morning ev", "good "))
        shows("good morning ev")
        worker.tell(said("c", 0, "good morning everyone"))
        shows("good morning everyone")
        worker.tell(guess("c", 1, "how [b]are"))
        shows("good morning everyone", "how [b]are")
        worker.tell(said("c", 1, "how are you"), ended("c", 2))
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while data := os.read(here, 65536):
                screen.write(data.decode())
        assert tail.process.wait(20) == 0
    os.close(here)
    assert screen.shown == [
        "[c] 0:01.20 good morning everyone",
        "[c] 0:01.20 how are you",
        "[c] 1:02:03.45 (end: 2 utterances, 7 words, 0.50 s never came)",
    ]


@pytest.mark.kafka
def test_a_missing_topic_is_exit_1_and_names_it(kafka):
    done = subprocess.run(
        [*COMMAND, "--bootstrap-servers", kafka, "--final-topic", "no-such"], cwd=ROOT, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, f"trunkline tail: topic no-such does not exist on {kafka}\n".encode())


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--bootstrap-servers", "127.0.0.1:1"], 1, "cannot reach Kafka at 127.0.0.1:1"),
        (["--bootstrap-servers", "nohost.invalid:1"], 1, "nohost.invalid:1: the host name cannot be resolved\n"),
        (["--bootstrap-servers", "no port"], 1, "cannot reach Kafka at no port"),
        (["--until-end"], 2, "--until-end needs --stream or --call"),
        (["--stream", "a", "--call", "b"], 2, "not allowed with"),
        (["--stream", "x" * 300], 2, "at most 256"),
        (["--stream", ""], 2, "an id has at least one character"),
        (["--call", ""], 2, "an id has at least one character"),
        (["--help"], 0, ""),
    ],
)
def test_exit_codes(arguments, code, message):
    done = subprocess.run([*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert code or "exit codes:" in done.stdout
