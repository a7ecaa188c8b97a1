"""The proxy stands between a client and a real Redis, and does what it is told."""

import time
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Refused
from redis.exceptions import TimeoutError as Late
from redis.retry import Retry

from deploy.redis import LocalRedis, RedisUnavailable
from deploy.toxiproxy import LocalToxiproxy, ToxiproxyUnavailable, fetch_server
from tests.conftest import require


@pytest.fixture
def proxy() -> Iterator[LocalToxiproxy]:
    try:
        with LocalRedis() as server, LocalToxiproxy(f"127.0.0.1:{server.port}") as started:
            yield started
    except (RedisUnavailable, ToxiproxyUnavailable) as missing:
        require(False, str(missing))
        raise


@pytest.mark.slow  # where Go has to build it first
def test_it_passes_on_delays_swallows_and_resets_until_it_is_healed(proxy: LocalToxiproxy) -> None:
    def client() -> Redis:
        url = f"redis://{proxy.address}/0"
        return Redis.from_url(url, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))

    with client() as one:
        assert one.ping()
        proxy.latency(400)
        began = time.monotonic()
        assert one.ping()
        assert time.monotonic() - began >= 0.4
        proxy.heal()
        began = time.monotonic()
        assert one.ping()
        assert time.monotonic() - began < 0.4
        proxy.blackhole()
        with pytest.raises(Late):
            one.ping()
        proxy.heal()
    with client() as another:
        proxy.reset()
        with pytest.raises(Refused):
            another.ping()
        proxy.heal()
        assert another.ping()


def test_without_go_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToxiproxyUnavailable, match="no `go`"):
        fetch_server()
