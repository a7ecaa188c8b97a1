"""From a pipe to a pipe: `trunkline produce` in, a real worker, `trunkline tail` out, each a process of its own."""

import json
import subprocess
import sys

import numpy as np
import pytest

from producer.encode import encode
from tests.integration.conftest import Service
from tests.integration.oracle import Oracle
from tests.integration.sending import spoken
from tests.integration.support import ROOT
from tests.integration.test_control import through_g711

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


def trunkline(*arguments: object, **options: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "trunkline", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_piped_g711_call_comes_back_as_json_with_the_words_of_the_offline_model(
    service: Service, oracle: Oracle
) -> None:
    call = "piped"
    sides = [encode(spoken("call-02", channel)[0], "mulaw") for channel in (0, 1)]
    assert spoken("call-02", 0)[1] == 8000
    frames = np.stack([np.frombuffer(side, np.uint8) for side in sides], axis=1)
    names = ("--final-topic", service.topics.final, "--partial-topic", service.topics.partial)
    tail = trunkline(
        *("tail", "--json", "--partials", "--call", call, "--until-end"),
        *("--bootstrap-servers", service.servers, *names),
    )
    form = ("--raw", "--encoding", "mulaw", "--sample-rate", 8000, "--channels", 2)
    try:
        assert tail.stderr.readline() == f"following call {call} from now on\n"
        speaking = trunkline(
            *("produce", *form, "--call-id", call, "--channel-names", "agent,customer", "-"),
            *("--bootstrap-servers", service.servers, "--topic", service.topics.audio),
            stdin=subprocess.PIPE,
        )
        speaking.stdin.buffer.write(frames.tobytes())
        stdout, stderr = speaking.communicate(timeout=120)
        assert (speaking.returncode, stderr) == (0, "")
        assert stdout.splitlines()[-1].endswith("all confirmed")
        told, stderr = tail.communicate(timeout=120)
    finally:
        tail.kill()
    assert (tail.returncode, stderr) == (0, "")

    events = [json.loads(line) for line in told.splitlines()]
    for channel, name in enumerate(("agent", "customer")):
        stream = f"{call}/{channel}"
        heard = service.outputs.heard(stream)  # by librdkafka
        oracle.check(heard, through_g711(spoken("call-02", channel)[0], "mulaw"), 8000)
        own = [event for event in events if event["stream"] == stream]
        assert {(event["channel"], event["call_id"]) for event in own} == {(name, call)}
        finals = [event for event in own if event["type"] != "partial"]
        assert [event["id"] for event in finals] == [event.head.id for event in heard.events]
        assert " ".join(event["text"] for event in finals if event["type"] == "utterance") == heard.text
        assert finals[-1]["type"] == "end"
        by_id = {event["id"]: event for event in finals}
        partials = [event for event in own if event["type"] == "partial"]
        assert all(by_id[event["id"]]["text"].startswith(event["stable"]) for event in partials)
    assert sum(event["type"] == "partial" for event in events) > 5
