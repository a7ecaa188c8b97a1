"""A worker killed at each numbered step of a commit and of a restore: its heir's finals complete its own, exactly."""

import signal
import subprocess
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from deploy.kafka import fetch_jars, find_java
from deploy.redis import LocalRedis
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS, own_topics
from tests.integration.disturbed import Group, ends, fill, group_on
from tests.integration.sending import Sender
from tests.integration.support import unique
from wire import Final, decode_final

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

COMMIT = ("1-collected", "2-begun", "3-sent", "4-rows", "5-offsets", "6-committed")
RESTORE = ("1-owned", "2-fenced", "3-table", "4-checkpoints")
IDLE = {"stream.idle_ms": 1500}  # one of the calls never ends
STATIC = {"kafka.instance_id": "one"}  # back at once, where another member waits for the dead one's session to end
ONLY_WITH_CHECKPOINTS = ("commit.7-discarded",)
PLACES = [*(f"commit.{step}" for step in COMMIT), *ONLY_WITH_CHECKPOINTS, *(f"restore.{step}" for step in RESTORE)]


@dataclass(frozen=True)
class Stage:
    """An audio topic, and what an undisturbed worker made of it."""

    servers: str
    audio: str
    streams: int
    undisturbed: Group


@pytest.fixture(scope="module")
def stage(kafka: str, zygote: Zygote) -> Iterator[Stage]:
    with own_topics(kafka) as topics, group_on(kafka, topics.audio, zygote, IDLE) as undisturbed:
        sender = Sender(kafka, topics.audio)
        streams = fill(sender)
        sender.close()
        undisturbed.worker()
        undisturbed.settle(undisturbed, streams)
        assert len(undisturbed.outputs.finals) > 15
        reasons = {out.event.reason for out in undisturbed.outputs.rejected}
        assert reasons == {"after_end", "malformed", "foreign_nonce", "no_key"}
        assert len(undisturbed.outputs.rejected) == 5
        yield Stage(kafka, topics.audio, streams, undisturbed)


@pytest.mark.parametrize("place", PLACES)
def test_killed_at(place: str, stage: Stage, zygote: Zygote, redis: LocalRedis) -> None:
    """Two groups at once, one with checkpoints and one without: most of the time is waiting."""
    stores = [{}, checkpoints(redis)] if place not in ONLY_WITH_CHECKPOINTS else [checkpoints(redis)]
    with ExitStack() as stack:
        groups = [
            stack.enter_context(group_on(stage.servers, stage.audio, zygote, store | STATIC | IDLE)) for store in stores
        ]
        if place.startswith("restore"):
            killed(groups, "commit.3-sent:4")  # so that there is something to restore
            killed(groups, f"{place}:2")
        else:
            killed(groups, place if place in ONLY_WITH_CHECKPOINTS else f"{place}:5")
        for group in groups:
            group.outputs.poll(0.3)
            done = len(ends(group.outputs)) == stage.streams
            assert not done or place in ONLY_WITH_CHECKPOINTS, "it died too late to prove anything"
            group.worker()
        for group in groups:
            group.settle(stage.undisturbed, stage.streams)


def test_java_reads_what_librdkafka_reads(stage: Stage, zygote: Zygote) -> None:
    """Kafka's own client, and a topic that holds finals of a transaction that was never committed."""
    with group_on(stage.servers, stage.audio, zygote, STATIC | IDLE) as group:
        for commit in range(3, 9):  # until one dies whose transaction held events, not only rows
            killed([group], f"commit.4-rows:{commit}")
            if hidden(group):
                break
        group.worker()
        group.settle(stage.undisturbed, stage.streams)
        read = java_reads(stage.servers, group.topics.final)
        shown = [(out.partition, out.key, out.event) for out in group.outputs.finals]
        for partition in range(PARTITIONS):
            assert [r for r in read if r[0] == partition] == [s for s in shown if s[0] == partition]
        assert len(read) == len(shown)
        assert hidden(group), "nothing was aborted, so nothing was hidden"


def hidden(group: Group) -> int:
    """Events on the topic that a `read_committed` reader is not shown."""
    everything, shown = (
        count(group.servers, group.topics.final, level) for level in ("read_uncommitted", "read_committed")
    )
    return everything - shown


def java_reads(servers: str, topic: str) -> list[tuple[int, bytes, Final]]:
    """Partition, key and event of each record that Finals.java prints."""
    program = Path(__file__).parent / "java" / "Finals.java"
    command = [find_java(), "-cp", f"{fetch_jars()}/*", str(program), servers, topic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return [(int(row[0]), b64decode(row[2]), decode_final(b64decode(row[3]))) for row in rows]


def count(servers: str, topic: str, isolation: str) -> int:
    """Records on the topic that a reader with this isolation level is shown."""
    settings = {"bootstrap.servers": servers, "group.id": unique("reader"), "isolation.level": isolation}
    consumer = Consumer(settings | {"enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    shown = done = 0
    while done < PARTITIONS:
        for message in consumer.consume(500, timeout=1):
            if message.error() is None:
                shown += 1
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF
                done += 1
    consumer.close()
    return shown


def checkpoints(redis: LocalRedis) -> dict[str, object]:
    """Taken as often as can be."""
    return {
        "state.store": "redis",
        "state.redis_url": redis.url,
        "state.key_prefix": unique("killed:"),
        "state.checkpoint_after_ms": 100,
        "kafka.commit_interval_ms": 100,
    }


def killed(groups: Sequence[Group], failpoint: str) -> None:
    """A worker of each group dies there."""
    for victim in [group.worker(failpoint) for group in groups]:
        assert victim.process.wait(60) == -signal.SIGKILL, victim.log_tail()
