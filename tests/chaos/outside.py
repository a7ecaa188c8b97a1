"""Faults of what the workers lean on: the broker, Redis, the way to Redis. Each is undone before the next one."""

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from redis import Redis

from deploy.kafka import LocalKafka
from deploy.redis import LocalRedis
from deploy.toxiproxy import LocalToxiproxy
from tests.chaos import schedule
from wire import Topics

LASTS_S = (1.0, 3.0)
LATENCY_MS = (100, 400)  # below and above the store's time-out
# The broker refuses batches of more bytes: most utterances, all rows. An end is smaller.
FINAL_BYTES, ROW_BYTES = 400, 200


class Outside:
    """Runs faults in a thread of its own, so that workers die in the middle of them, too."""

    def __init__(
        self, broker: LocalKafka, topics: Topics, redis: LocalRedis | None, proxy: LocalToxiproxy | None, seed: int
    ) -> None:
        self.faults: Counter[str] = Counter()
        self.broker_back = float("-inf")  # when it was last away; infinity while it is
        self._broker = broker
        self._redis = redis
        self._proxy = proxy
        self._topics = topics
        self._rng = random.Random(f"{seed}/outside")
        self._thread = ThreadPoolExecutor(1, "faults")
        self._running: list[Future[None]] = []

    def inflict(self, kind: str) -> None:
        lasts = self._rng.uniform(*LASTS_S)
        self._running.append(self._thread.submit(self._one, kind, lasts))

    def rest(self) -> None:
        """Wait until the last fault is undone. Raises what made one fail."""
        for fault in self._running:
            fault.result(120)
        self._thread.shutdown()

    def _one(self, kind: str, lasts: float) -> None:
        does: dict[str, Callable[[], None]] = {
            schedule.BROKER: lambda: self._restart_broker(killed=False),
            schedule.BROKER_KILL: lambda: self._restart_broker(killed=True),
            schedule.REFUSED_FINAL: lambda: self._refuse(self._topics.final, FINAL_BYTES, lasts),
            schedule.REFUSED_ROW: lambda: self._refuse(self._topics.streams, ROW_BYTES, lasts),
            schedule.REDIS_RESTART: lambda: self._restart_redis(lasts),
            schedule.REDIS_FLUSH: self._flush_redis,
            schedule.REDIS_LATENCY: lambda: self._toxic("latency", lasts),
            schedule.REDIS_BLACKHOLE: lambda: self._toxic("blackhole", lasts),
            schedule.REDIS_RESET: lambda: self._toxic("reset", lasts),
        }
        does[kind]()
        self.faults[kind] += 1

    def _restart_broker(self, killed: bool) -> None:
        self.broker_back = float("inf")
        if killed:
            self._broker.kill()
        self._broker.restart()
        self.broker_back = time.monotonic()

    def _refuse(self, topic: str, most: int, lasts: float) -> None:
        """A smaller limit for a record: the broker refuses what the client, which has its own, sends."""
        self._limit(topic, str(most))
        time.sleep(lasts)
        self._limit(topic, None)

    def _limit(self, topic: str, most: str | None) -> None:
        operation = AlterConfigOpType.DELETE if most is None else AlterConfigOpType.SET
        entry = ConfigEntry("max.message.bytes", most or "", incremental_operation=operation)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": self._broker.bootstrap_servers})
        for done in admin.incremental_alter_configs([resource], request_timeout=30).values():
            done.result(30)

    def _restart_redis(self, lasts: float) -> None:
        assert self._redis is not None
        self._redis.stop()
        time.sleep(lasts)
        self._redis.start()  # keeps nothing

    def _flush_redis(self) -> None:
        assert self._redis is not None
        with Redis.from_url(self._redis.url) as client:
            client.flushall()

    def _toxic(self, kind: str, lasts: float) -> None:
        assert self._proxy is not None
        if kind == "latency":
            self._proxy.latency(self._rng.randint(*LATENCY_MS), jitter_ms=100)
        elif kind == "blackhole":
            self._proxy.blackhole()
        else:
            self._proxy.reset()
        time.sleep(lasts)
        self._proxy.heal()
