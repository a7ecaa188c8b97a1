"""Calls that are told part by part to a group of workers, so that something may befall them in between."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from redis import Redis

from deploy.redis import LocalRedis
from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS, own_topics
from tests.integration.disturbed import Group, group_on, names, voices
from tests.integration.sending import Sender, stream_of
from tests.integration.support import unique
from wire import Options
from wire import Record as WireRecord
from worker.delivery.table import Row, read_table

STATIC = {"kafka.instance_id": "one"}  # a worker that takes another's place need not wait for its session to end
PARTS = 3
SECONDS = 15
IDLE_MS = 3_600_000  # an idle call ends by the clock: on a slow machine a disturbance may take longer than the default


class Calls:
    """Calls on an audio topic, one or more a partition, sent in equal parts."""

    def __init__(self, sender: Sender, per_partition: int = 1) -> None:
        self._sender = sender
        self._streams: dict[str, Sequence[WireRecord]] = {}
        self._sent = 0
        told = names("call", [*range(PARTITIONS)] * per_partition)
        for name, (samples, rate) in zip(told, [*voices()] * per_partition, strict=False):
            self._streams[name] = stream_of(samples[: SECONDS * rate], rate, options=Options(endpoint_ms=300))

    def __len__(self) -> int:
        return len(self._streams)

    def say(self, parts: int = 1) -> None:
        """The next part of each call; with the last one they end."""
        first, self._sent = self._sent, self._sent + parts
        for index in range(len(max(self._streams.values(), key=len))):
            for name, records in self._streams.items():
                if first * len(records) <= index * PARTS < self._sent * len(records) and index < len(records):
                    self._sender.send(name, [records[index]])


class Scene:
    """A group that is disturbed, the calls it hears, and where its verdict comes from."""

    def __init__(self, group: Group, zygote: Zygote, sender: Sender) -> None:
        self.group = group
        self.sender = sender
        self.zygote = zygote

    def calls(self, per_partition: int = 1) -> Calls:
        return Calls(self.sender, per_partition)

    def heard(self, worker: LocalWorker, seconds: float) -> None:
        """Wait until this much audio went through the worker's engine."""
        wait(lambda: worker.metric("trunkline_audio_processed_seconds_total") >= seconds, worker)

    def checkpointed(self, worker: LocalWorker, server: LocalRedis) -> None:
        """Wait until a commit names a checkpoint of each stream, and Redis has it: one just saved is of no use yet."""

        def done() -> bool:
            with Redis.from_url(server.url) as redis:
                rows = asyncio.run(self._rows())
                named = [row.checkpoint.key for row in rows if row.checkpoint]
                return len(named) == PARTITIONS == redis.exists(*named)

        wait(done, worker)

    async def _rows(self) -> list[Row]:
        client, topic = {"bootstrap_servers": self.group.servers}, self.group.topics.streams
        tables = await asyncio.gather(*(read_table(client, topic, number, 10.0) for number in range(PARTITIONS)))
        return [row for table in tables for row in table.live.values()]

    def same_as_undisturbed(self, streams: int) -> None:
        with self.undisturbed(streams) as alone:
            self.group.settle(alone, streams)

    @contextmanager
    def undisturbed(self, streams: int) -> Iterator[Group]:
        with group_on(self.group.servers, self.group.topics.audio, self.zygote) as alone:
            alone.worker()
            alone.settle(alone, streams)
            yield alone


@contextmanager
def scene(servers: str, zygote: Zygote, settings: dict[str, object]) -> Iterator[Scene]:
    patient = {"stream.idle_ms": IDLE_MS} | settings
    with own_topics(servers) as topics, group_on(servers, topics.audio, zygote, patient) as group:
        sender = Sender(servers, topics.audio)
        try:
            yield Scene(group, zygote, sender)
        finally:
            sender.close()


def wait(done: Callable[[], object], *workers: LocalWorker, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if done():
                return
        except OSError:
            pass  # it has not opened its telemetry port yet
        assert time.monotonic() < deadline, "\n\n".join(worker.log_tail() for worker in workers)
        time.sleep(0.05)


def assigned(worker: LocalWorker, count: int) -> None:
    wait(lambda: worker.metric("trunkline_partitions_assigned") == count, worker)


def redis_settings(server: LocalRedis) -> dict[str, object]:
    return {
        "state.store": "redis",
        "state.redis_url": server.url,
        "state.key_prefix": unique("faults:"),
        "state.checkpoint_after_ms": 500,
        "state.timeout_ms": 500,
        "kafka.commit_interval_ms": 200,
        "kafka.instance_id": "one",
    }
