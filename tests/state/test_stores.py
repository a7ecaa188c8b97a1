"""The contract of every state store, and what Redis does in good and bad times; a real redis-server in all of it."""

import asyncio
import os
import re
import signal
import time
from contextlib import asynccontextmanager

import pytest
from redis import Redis

from tests.certificates import Authority
from tests.state.conftest import local_redis
from worker.state.device import DeviceStore
from worker.state.measured import MeasuredStore
from worker.state.redis import RedisStore
from worker.state.store import StoreUnavailable
from worker.telemetry.metrics import Metrics

DEADLINE_S = 1.0  # where a test waits for it
PATIENCE_S = 30.0  # elsewhere: a busy machine is no failure
TTL_S = 600


def redis_store(url, **given):
    return RedisStore(url, **{"ttl_s": TTL_S, "timeout_s": PATIENCE_S} | given)


@asynccontextmanager
async def started(store):
    await store.start()
    try:
        yield store
    finally:
        await store.close()


class Contract:
    """What holds for every store."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError

    def run(self, make, test):
        async def inner():
            async with started(make()) as store:
                await test(store)

        asyncio.run(inner())

    def test_what_is_got_is_what_was_put_or_nothing(self, make):
        values = {
            "a": b"",
            "b": b"\0" * 100,
            "call:/0 \u00fc\n": bytes(range(256)) * 40_000,
            "d": b"short",
        }

        async def test(store):
            for key, data in values.items():
                await store.put(key, data)
            for key, data in values.items():
                assert await store.get(key) == (data if store.durable else None)

        self.run(make, test)

    def test_what_was_never_put_or_was_deleted_is_not_there(self, make):
        async def test(store):
            assert await store.get("never") is None
            await store.put("a", b"1")
            await store.put("b", b"2")
            await store.put("c", b"3")
            await store.delete(["a", "b", "never"])
            assert [await store.get(key) for key in "ab"] == [None, None]
            assert await store.get("c") == (b"3" if store.durable else None)
            await store.delete([])

        self.run(make, test)

    def test_many_at_once_are_never_mixed_up(self, make):
        async def test(store):
            async def one(number):
                key, data = f"k{number}", bytes([number]) * (1000 * number)
                await store.put(key, data)
                assert await store.get(key) in ([data] if store.durable else [None])
                await store.delete([key])
                assert await store.get(key) is None

            await asyncio.gather(*(one(number) for number in range(50)))

        self.run(make, test)

    def test_another_worker_finds_what_a_durable_store_was_given(self, make):
        async def inner():
            async with started(make()) as store:
                await store.put("a", b"1")
            async with started(make()) as store:
                assert await store.get("a") == (b"1" if store.durable else None)

        asyncio.run(inner())


class TestDevice(Contract):
    @pytest.fixture
    def make(self):
        return DeviceStore

    def test_it_is_not_durable(self):
        assert DeviceStore.durable is False


class TestRedis(Contract):
    @pytest.fixture
    def make(self, redis_server):
        return lambda: redis_store(redis_server.url)

    def test_keys_have_a_time_to_live(self, redis_server):
        async def test(store):
            await store.put("a", b"1")

        self.run(lambda: redis_store(redis_server.url, ttl_s=77), test)
        assert 70 < Redis.from_url(redis_server.url).ttl("a") <= 77

    def test_flushall_leaves_nothing_and_breaks_nothing(self, redis_server):
        async def test(store):
            await store.put("a", b"1")
            Redis.from_url(redis_server.url).flushall()
            assert await store.get("a") is None
            await store.put("b", b"2")
            assert await store.get("b") == b"2"

        self.run(lambda: redis_store(redis_server.url), test)

    def test_a_server_that_stops_is_reported_at_once_and_taken_again_when_it_is_back(self, redis_server):
        async def test(store):
            await store.put("a", b"1")
            redis_server.kill()
            for call in (store.put("b", b"2"), store.get("a"), store.delete(["a"])):
                with pytest.raises(StoreUnavailable, match=f"Redis at 127.0.0.1:{redis_server.port}"):
                    await within(PATIENCE_S / 2, call)
            redis_server.start()
            assert await store.get("a") is None
            await store.put("b", b"2")
            assert await store.get("b") == b"2"

        self.run(lambda: redis_store(redis_server.url), test)

    def test_a_server_that_is_not_there_yet_does_not_stop_the_start(self, redis_server, caplog):
        redis_server.stop()

        async def test(store):
            assert "checkpoints begin when it answers" in caplog.text
            redis_server.start()
            await store.put("a", b"1")

        self.run(lambda: redis_store(redis_server.url), test)

    def test_a_server_that_hangs_costs_the_deadline_and_never_gives_another_keys_answer(self, redis_server):
        async def test(store):
            await store.put("a", b"first")
            await store.put("b", b"second")
            os.kill(redis_server.pid, signal.SIGSTOP)
            try:
                for call in (store.get("a"), store.put("c", b"x" * 5_000_000), store.delete(["b"])):
                    with pytest.raises(StoreUnavailable, match=r"in 1 s|Timeout"):
                        await within(DEADLINE_S + 0.5, call)
            finally:
                os.kill(redis_server.pid, signal.SIGCONT)
            assert await store.get("b") in (b"second", None)
            assert await store.get("a") == b"first"
            assert await store.get("c") in (None, b"x" * 5_000_000)

        self.run(lambda: redis_store(redis_server.url, timeout_s=DEADLINE_S), test)

    def test_a_call_that_is_given_up_leaves_no_answer_behind(self, redis_server):
        """Cancelled in the middle of an answer: the next call must not read the rest of it."""

        async def test(store):
            await store.put("large", os.urandom(30_000_000))
            await store.put("small", b"small")
            for delay in (0.0, 0.001, 0.003, 0.006, 0.012):
                call = asyncio.create_task(store.get("large"))
                await asyncio.sleep(delay)
                call.cancel()
                assert await store.get("small") == b"small"

        self.run(lambda: redis_store(redis_server.url), test)

    def test_out_of_memory_is_an_error_and_not_a_silent_loss(self, redis_server):
        Redis.from_url(redis_server.url).config_set("maxmemory", "3mb")

        async def test(store):
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                await asyncio.gather(*(store.put(str(number), b"x" * 1_000_000) for number in range(10)))

        self.run(lambda: redis_store(redis_server.url), test)


async def within(seconds, call):
    began = time.monotonic()
    try:
        return await call
    finally:
        assert time.monotonic() - began < seconds


class TestRedisByTls(Contract):
    @pytest.fixture
    def server(self, certificates):
        settings = {
            "tls-cert-file": str(certificates / "server.pem"),
            "tls-key-file": str(certificates / "server.key"),
            "tls-ca-cert-file": str(certificates / "ca.pem"),
        }
        with local_redis(settings) as server:
            yield server

    @pytest.fixture
    def trust(self, certificates):
        return {
            "ca_file": str(certificates / "ca.pem"),
            "cert_file": str(certificates / "client.pem"),
            "key_file": str(certificates / "client.key"),
        }

    @pytest.fixture
    def make(self, server, trust):
        assert server.url.startswith("rediss://")
        return lambda: redis_store(server.url, **trust)

    def test_an_unknown_authority_is_refused(self, server, trust):
        async def test(store):
            with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                await store.get("a")

        self.run(lambda: redis_store(server.url, **trust | {"ca_file": None}), test)

    def test_a_server_that_asks_for_a_certificate_gets_none(self, server, trust):
        async def test(store):
            with pytest.raises(StoreUnavailable):
                await store.put("a", b"1")

        self.run(lambda: redis_store(server.url, ca_file=trust["ca_file"]), test)


class TestRedisThatDoesNotLetUsIn:
    """The start says why in one line, and the worker goes on without checkpoints."""

    @pytest.fixture(scope="class")
    def authority(self, tmp_path_factory):
        return Authority(tmp_path_factory.mktemp("authority"))

    @pytest.fixture
    def start(self, authority, caplog):
        """Start a store on a server with such a certificate; returns what was logged."""

        def start(name, subject="IP:127.0.0.1", days=2, plain=False, **given):
            certificate = authority.issue(name, subject, days)
            settings = {
                "tls-cert-file": str(certificate),
                "tls-key-file": str(certificate.with_suffix(".key")),
                "tls-auth-clients": "no",
                "tls-ca-cert-file": str(authority.ca),
                "requirepass": "secret",
            }

            async def inner(url):
                async with started(redis_store(url, **given)) as store:
                    with pytest.raises(StoreUnavailable):
                        await store.put("a", b"1")

            with local_redis(settings) as server:
                began = time.monotonic()
                asyncio.run(inner(server.url.replace("rediss", "redis") if plain else server.url))
                assert time.monotonic() - began < 3 * DEADLINE_S
            (record,) = [record for record in caplog.records if record.name == "worker.state.redis"]
            assert "secret" not in record.getMessage()
            return record.getMessage()

        return start

    def test_a_wrong_host_name(self, start, authority):
        said = start("othername", "DNS:redis.example", ca_file=str(authority.ca), password="secret")
        assert re.match(r"the certificate of Redis at 127\.0\.0\.1:\d+ is not for '127\.0\.0\.1'", said)

    def test_an_expired_certificate(self, start, authority):
        said = start("expired", days=-1, ca_file=str(authority.ca), password="secret")
        assert re.match(r"the certificate of Redis at 127\.0\.0\.1:\d+ has expired", said)

    def test_an_authority_that_is_not_trusted(self, start):
        assert "signed by an authority that is not trusted here" in start("untrusted", password="secret")

    def test_a_wrong_password_over_tls(self, start, authority):
        said = start("right", ca_file=str(authority.ca), password="wrong")
        assert "invalid username-password pair" in said
        assert said.endswith("checkpoints begin when it answers")

    def test_plain_against_tls(self, start):
        assert "Redis at 127.0.0.1" in start("plain", plain=True, password="secret")


class TestRedisByAclUser(Contract):
    USER = "on >secret ~trunkline:* +set +get +unlink +ping"

    @pytest.fixture
    def server(self):
        with local_redis({"user": f"worker {self.USER}"}) as server:
            Redis.from_url(server.url).acl_setuser("default", enabled=False)
            yield server

    @pytest.fixture
    def make(self, server):
        Prefixed = _prefixed("trunkline:")
        return lambda: Prefixed(server.url, username="worker", password="secret", ttl_s=TTL_S, timeout_s=PATIENCE_S)

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ({"username": "worker", "password": "wrong"}, "invalid username-password pair"),
            ({"username": "nobody", "password": "secret"}, "invalid username-password pair"),
            ({}, "Authentication required"),
        ],
    )
    def test_who_may_not_is_told_so(self, server, given, said):
        async def test(store):
            with pytest.raises(StoreUnavailable, match=said) as error:
                await store.put("trunkline:a", b"1")
            assert "secret" not in str(error.value)
            with pytest.raises(StoreUnavailable, match=said):
                await store.get("trunkline:a")

        self.run(lambda: redis_store(server.url, **given), test)

    def test_a_key_outside_of_the_users_prefix_is_refused(self, server):
        async def test(store):
            with pytest.raises(StoreUnavailable, match="no permissions to access one of the keys"):
                await store.put("other:a", b"1")

        self.run(lambda: redis_store(server.url, username="worker", password="secret"), test)


def _prefixed(prefix):
    class Prefixed(RedisStore):
        """The contract's keys, under the prefix that the user may touch."""

        async def put(self, key, data):
            await super().put(prefix + key, data)

        async def get(self, key):
            return await super().get(prefix + key)

        async def delete(self, keys):
            await super().delete([prefix + key for key in keys])

    return Prefixed


@pytest.mark.parametrize(
    ("url", "given", "said"),
    [
        ("http://127.0.0.1:1", {}, "URL"),
        ("redis://127.0.0.1:1", {"ca_file": "ca.pem"}, "not rediss"),
    ],
)
def test_what_cannot_be_a_configuration_is_a_value_error(url, given, said):
    with pytest.raises(ValueError, match=said):
        redis_store(url, **given)


def test_a_password_in_the_url_is_never_in_a_message(redis_server):
    redis_server.stop()

    async def test():
        async with started(redis_store(f"redis://user:hidden@127.0.0.1:{redis_server.port}/0")) as store:
            with pytest.raises(StoreUnavailable) as error:
                await store.get("a")
            assert "hidden" not in str(error.value)

    asyncio.run(test())


def test_a_store_is_timed_and_its_failures_counted(redis_server):
    async def run():
        metrics = Metrics()

        def value(name, operation):
            return metrics.registry.get_sample_value(f"trunkline_state_store_{name}", {"operation": operation})

        async with started(MeasuredStore(redis_store(redis_server.url), metrics)) as store:
            assert store.durable
            await store.put("a", b"1")
            assert await store.get("a") == b"1"
            await store.delete(["a"])
            redis_server.kill()
            with pytest.raises(StoreUnavailable):
                await store.get("a")
        for operation in ("put", "get", "delete"):
            assert value("request_duration_seconds_count", operation) == 1
            assert 0 < value("request_duration_seconds_sum", operation) < DEADLINE_S
        assert [value("errors_total", operation) for operation in ("put", "get", "delete")] == [0, 1, 0]

    asyncio.run(run())
