"""Whatever comes: audio, or one record on the rejected topic; the streams beside it notice nothing.

One test for each row of the table in docs/wire.md; what the rows send is in bad_records.py.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby

import pytest
from confluent_kafka import KafkaError
from confluent_kafka import Producer as Client
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.integration.bad_records import CASES, FLOAT, PIECE, TEN_MB, Sent, changed
from tests.integration.conftest import PREFIX, Round, Service
from tests.integration.sending import Sender, spoken, stream_of
from tests.integration.support import Out, without_confidence
from wire import Rejected, StreamEnd, Utterance, encode_record
from wire.fields import MAX_RECORD_BYTES

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

PARTITION = 2  # of all: what hurts a partition would hurt the good streams
CALL = ("call-03", 0)


@dataclass(frozen=True)
class Outcome:
    """What one case put on the topic, by offset, and which of it was rejected."""

    stream: str
    sent: dict[int, Sent]
    rejected: dict[int, list[Out[Rejected]]]


@contextmanager
def allowing(service: Service, size: int) -> Iterator[None]:
    """The audio topic takes records of this size meanwhile."""
    _set_largest(service, size)
    try:
        yield
    finally:
        _set_largest(service, 2 * MAX_RECORD_BYTES)


def _set_largest(service: Service, size: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, service.topics.audio, incremental_configs=[entry])
    client = AdminClient({"bootstrap.servers": service.servers})
    for done in client.incremental_alter_configs([resource]).values():
        done.result(20)


@pytest.fixture(scope="module")
def outcomes(service: Service) -> dict[str, Outcome]:
    """Every case, one after the other on one partition; its streams are in the worker together."""
    samples, rate = spoken(*CALL)
    sender = Sender(service.servers, service.topics.audio, max_bytes=12_000_000)
    sent: dict[str, dict[int, Sent]] = {}
    with allowing(service, 12_000_000):
        for name, make in CASES.items():
            good = stream_of(samples, rate, "pcm_f32le" if name == FLOAT else "pcm_s16le")
            sent[name] = put(sender, make(f"bad-{name}", good))
    sender.close()
    outputs = service.outputs
    outputs.until(lambda: all(ended(service, name) for name in CASES), "the end of all good streams", 120)
    due = {offset for records in sent.values() for offset, (_, _, reason) in records.items() if reason}

    def rejected() -> dict[int, list[Out[Rejected]]]:
        found: dict[int, list[Out[Rejected]]] = {}
        for out in outputs.rejected:
            if out.partition == PARTITION:
                found.setdefault(int(out.headers["offset"]), []).append(out)
        return found

    outputs.until(lambda: due <= rejected().keys(), "a rejected record for each bad one", 20)
    outputs.poll(0.5)  # none comes twice
    found = rejected()
    return {
        name: Outcome(f"bad-{name}", records, {offset: found.get(offset, []) for offset in records})
        for name, records in sent.items()
    }


def put(sender: Sender, records: list[Sent]) -> dict[int, Sent]:
    placed: dict[int, Sent] = {}
    for key, group in groupby(records, key=lambda record: record[0]):
        together = list(group)
        places = sender.send(key, [value for _, value, _ in together], PARTITION)
        placed |= {offset: record for (_, offset), record in zip(places, together, strict=True)}
    return placed


def ended(service: Service, name: str) -> bool:
    events = [out.event for out in service.outputs.finals if out.event.head.stream == f"bad-{name}"]
    return bool(events) and isinstance(events[-1], StreamEnd) and events[-1].reason == "end"


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, service: Service, calls: Round, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    # each record is rejected once for its reason, or not at all
    for offset, (key, value, reason) in outcome.sent.items():
        outs = outcome.rejected[offset]
        assert [out.event.reason for out in outs] == ([] if reason is None else [reason]), (offset, value)
        for out in outs:
            data = value if isinstance(value, bytes) else b"" if value is None else encode_record(value)
            sent_key = key.encode() if isinstance(key, str) else key
            assert out.key == (
                None if "key" in (reason or "").split("_") else sent_key
            )  # an unusable one is not passed
            assert out.headers == {"topic": service.topics.audio, "partition": str(PARTITION), "offset": str(offset)}
            assert (out.event.size, out.event.data) == (len(data), data[: 64 * 1024])
            assert out.event.sha256 == hashlib.sha256(data).digest()
            assert out.event.detail
    # and the good stream is heard as if nothing had come
    finals = [out.event for out in service.outputs.finals if out.event.head.stream == outcome.stream]
    life = finals[-1].head.id.rpartition("/")[0]  # a second start makes a second one
    events = [event for event in finals if event.head.id.rpartition("/")[0] == life]
    said = [without_confidence(event).words for event in events if isinstance(event, Utterance)]
    twin = calls.heard[f"{PREFIX}{CALL[0]}/{CALL[1]}"]
    assert said == [without_confidence(utterance).words for utterance in twin.utterances]
    assert (events[-1].gap_ms, events[-1].duration) == (0, twin.end.duration)


def test_payload_10_mb_refused(service: Service) -> None:
    """On a topic as `trunkline topics create` makes it, the broker does not let it in."""
    failed: list[KafkaError] = []
    client = Client({"bootstrap.servers": service.servers, "message.max.bytes": 12_000_000})
    client.produce(
        service.topics.audio,
        changed(PIECE, payload=bytes(TEN_MB)),
        key="huge",
        on_delivery=lambda error, _: failed.append(error),
    )
    assert client.flush(30) == 0
    assert [error.code() for error in failed] == [KafkaError.MSG_SIZE_TOO_LARGE]
