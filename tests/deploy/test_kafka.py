import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import UnknownTopicOrPartitionError

from deploy.kafka import KafkaUnavailable, LocalKafka, broker
from tests.conftest import require
from tests.deploy.test_guard import gone
from wire.topics import TopicSpec
from worker.ingest import topics as admin

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalKafka]:
    """A broker of this module's own, to be stopped and killed."""
    try:
        kafka = LocalKafka()
    except KafkaUnavailable as missing:
        require(False, str(missing))
        raise
    with kafka:
        yield kafka


async def _create(servers: str, topic: str) -> None:
    await admin.create([TopicSpec(topic, 1, {})], bootstrap_servers=servers)


async def _send(servers: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers, enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(topic, value)


async def _read(servers: str, topic: str, count: int, **options: str) -> list[bytes]:
    async with AIOKafkaConsumer(bootstrap_servers=servers, **options) as consumer:
        partition = TopicPartition(topic, 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        async with asyncio.timeout(30):
            return [(await consumer.getone()).value for _ in range(count)]


def test_records_come_back_in_order(local):
    async def run():
        await _create(local.bootstrap_servers, "order")
        await _send(local.bootstrap_servers, "order", [b"one", b"two", b"three"])
        return await _read(local.bootstrap_servers, "order", 3)

    assert asyncio.run(run()) == [b"one", b"two", b"three"]


def test_a_read_committed_consumer_sees_committed_transactions_only(local):
    servers = local.bootstrap_servers

    async def run():
        await _create(servers, "transactions")
        async with AIOKafkaProducer(bootstrap_servers=servers, transactional_id="test") as producer:
            async with producer.transaction():
                await producer.send_and_wait("transactions", b"first")
            await producer.begin_transaction()
            await producer.send_and_wait("transactions", b"aborted")
            await producer.abort_transaction()
            async with producer.transaction():
                await producer.send_and_wait("transactions", b"second")
        committed = await _read(servers, "transactions", 2, isolation_level="read_committed")
        return committed, await _read(servers, "transactions", 3)

    committed, everything = asyncio.run(run())
    assert committed == [b"first", b"second"]
    assert everything == [b"first", b"aborted", b"second"]


def test_restart_keeps_address_and_data_after_a_stop_and_after_a_kill(local):
    servers = local.bootstrap_servers
    asyncio.run(_create(servers, "kept"))
    for number, end in enumerate((local.stop, local.kill), 1):
        asyncio.run(_send(servers, "kept", [b"%d" % number]))
        before = local.pid
        end()
        assert gone(before)
        with pytest.raises(RuntimeError, match="not running"):
            _ = local.pid
        local.restart()
        assert local.pid != before
        assert local.bootstrap_servers == servers
        assert asyncio.run(_read(servers, "kept", number)) == [b"%d" % n for n in range(1, number + 1)]


def test_a_topic_nobody_made_is_not_made_by_sending_to_it(local):
    async def run():
        async with AIOKafkaProducer(bootstrap_servers=local.bootstrap_servers) as producer:
            with pytest.raises((TimeoutError, UnknownTopicOrPartitionError)):
                await asyncio.wait_for(producer.send_and_wait("nobody-made-it", b"x"), 3)
        return await admin.describe(["nobody-made-it"], bootstrap_servers=local.bootstrap_servers)

    assert asyncio.run(run()) == {}


def test_the_broker_is_gone_after_its_parent_was_killed(local):
    script = (
        "import time\n"
        "from deploy.kafka import LocalKafka\n"
        "with LocalKafka() as kafka:\n"
        "    print(kafka.pid, kafka.directory, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert parent.stdout is not None
    pid, directory = parent.stdout.readline().split()
    parent.kill()
    parent.wait()
    assert gone(int(pid), within_s=15)
    deadline = time.monotonic() + 10
    while os.path.exists(directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(directory)


def test_a_broker_that_does_not_start_shows_the_end_of_its_log(local):
    kafka = LocalKafka()
    try:
        with socket.create_server(("127.0.0.1", kafka.port)):
            with pytest.raises(RuntimeError, match=r"(?s)ended with 1.*Address already in use"):
                kafka.start()
    finally:
        kafka.close()


def test_without_java_the_reason_says_so(monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KafkaUnavailable, match="Java 17"):
        LocalKafka()


def test_without_maven_and_jars_the_reason_says_so(monkeypatch, tmp_path, local):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    java_only = tmp_path / "bin"
    java_only.mkdir()
    (java_only / "java").symlink_to(local.java)
    monkeypatch.setenv("PATH", str(java_only))
    with pytest.raises(KafkaUnavailable, match="Maven"):
        LocalKafka()


def test_a_cluster_named_in_the_environment_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "elsewhere:9092")
    with broker() as servers:
        assert servers == "elsewhere:9092"
