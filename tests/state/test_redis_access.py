"""Each way into a real Redis, over TLS and as an ACL user, and what is said to who is not let in."""

import asyncio
import re
import time

import pytest
from redis import Redis

from tests.certificates import Authority
from tests.state.conftest import local_redis
from tests.state.contract import DEADLINE_S, PATIENCE_S, TTL_S, Contract, redis_store, started, with_store
from worker.state.redis import RedisStore
from worker.state.store import StoreUnavailable


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

        with_store(lambda: redis_store(server.url, **trust | {"ca_file": None}), test)

    def test_a_server_that_asks_for_a_certificate_gets_none(self, server, trust):
        async def test(store):
            with pytest.raises(StoreUnavailable):
                await store.put("a", b"1")

        with_store(lambda: redis_store(server.url, ca_file=trust["ca_file"]), test)


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

        with_store(lambda: redis_store(server.url, **given), test)

    def test_a_key_outside_of_the_users_prefix_is_refused(self, server):
        async def test(store):
            with pytest.raises(StoreUnavailable, match="no permissions to access one of the keys"):
                await store.put("other:a", b"1")

        with_store(lambda: redis_store(server.url, username="worker", password="secret"), test)


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
