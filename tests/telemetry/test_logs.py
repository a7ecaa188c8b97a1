"""The log: a JSON object a line, with its context, and never what was said."""

import asyncio
import io
import json
import logging
import sys
import warnings

import pytest

from wire.events import Head, Partial, Utterance
from wire.topics import Topics
from worker.delivery.outbox import Outbox
from worker.settings import TelemetrySettings
from worker.telemetry import logs
from worker.transcript.transcriber import Told

log = logging.getLogger("worker.test")


@pytest.fixture
def written(monkeypatch):
    """Set logging up; what was written, line by line."""
    root = logging.getLogger()
    before, level, hook = root.handlers[:], root.level, sys.excepthook
    error = io.StringIO()

    def set_up(**settings):
        monkeypatch.setattr(sys, "stderr", error)  # here: the test runner sets its own before each phase
        logs.set_up(TelemetrySettings(**settings))
        return lambda: error.getvalue().splitlines()

    yield set_up
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    for handler in before:
        root.addHandler(handler)
    root.setLevel(level)
    sys.excepthook = hook
    logging.captureWarnings(False)
    logs.transcripts.disabled = True
    logging.getLogger("aiokafka").setLevel(logging.NOTSET)


def test_each_line_is_an_object_whatever_is_in_it(written):
    lines = written(log_format="json")
    log.info('a "quote", a\nnew line, %s', "\u00e9\u2603")
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    warnings.warn("be warned", stacklevel=1)
    first, second, third = (json.loads(line) for line in lines())
    assert first["message"] == 'a "quote", a\nnew line, \u00e9\u2603'
    assert (first["level"], first["logger"]) == ("info", "worker.test")
    assert first["time"].endswith("Z")
    assert second["exception"].endswith("ValueError: why")
    assert "be warned" in third["message"]


def test_partition_and_stream_are_fields(written):
    lines = written(log_format="json")

    async def task(number):
        logs.serve(number)
        await asyncio.sleep(0)
        log.info("of the task")
        await asyncio.create_task(child())

    async def child():
        log.info("of its child", extra=logs.about(stream="call-7/0"))

    async def both():
        await asyncio.gather(task(1), task(2))
        log.info("of none")

    asyncio.run(both())
    found = [json.loads(line) for line in lines()]
    assert [line.get("partition") for line in found] == [1, 2, 1, 2, None]
    assert [line.get("stream") for line in found] == [None, None, "call-7/0", "call-7/0", None]


def test_text_has_the_context_at_its_end_and_is_for_terminals(written):
    lines = written(log_format="text")
    log.info("it ends", extra=logs.about(3, "call-7/0"))
    assert lines()[0].endswith("INFO worker.test: it ends (partition=3 stream=call-7/0)")


def test_auto_is_json_where_no_terminal_is(written):
    lines = written()
    log.info("x")
    assert json.loads(lines()[0])["message"] == "x"


@pytest.mark.parametrize("asked", [False, True])
def test_finals_are_logged_only_when_asked_for(written, asked):
    lines = written(log_level="debug", log_transcripts=asked)
    head = Head("call-7/0/3-5/0", "call-7/0", 0, "m", (5, 9))
    told = [
        Told(Partial(head, "secret partial", 0, 900, "secret"), 1),
        Told(Utterance(head, "secret words", (), 0, 1000, "silence"), 1),
    ]

    class NoPartials:
        def tell(self, *_):
            pass

        def forget(self, *_):
            pass

    async def tell():
        Outbox(3, Topics(), NoPartials()).told("call-7/0", told)

    asyncio.run(tell())
    text = "\n".join(lines())
    assert ("secret words" in text) == asked
    assert "secret partial" not in text
    if asked:
        line = json.loads(lines()[-1])
        assert (line["partition"], line["stream"]) == (3, "call-7/0")


def test_the_kafka_clients_debug_lines_which_hold_requests_are_never_written(written):
    lines = written(log_level="debug")
    logging.getLogger("aiokafka.conn").debug("Request: %s", b"password and audio")
    logging.getLogger("aiokafka.conn").info("connected")
    assert [json.loads(line)["message"] for line in lines()] == ["connected"]
