"""A Redis for each test that asks: it starts in fifty milliseconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.redis import LocalRedis, RedisUnavailable
from tests.certificates import Authority
from tests.conftest import require
from worker.state.redis import RedisStore


def local_redis(settings: dict[str, str] | None = None) -> LocalRedis:
    try:
        return LocalRedis(settings)
    except RedisUnavailable as missing:
        require(False, str(missing))
        raise


@pytest.fixture
def redis_server() -> Iterator[LocalRedis]:
    with local_redis() as server:
        yield server


@pytest.fixture
def store(redis_server: LocalRedis) -> RedisStore:
    return RedisStore(redis_server.url, ttl_s=600, timeout_s=1.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpointer that looks often, and is soon back when its store was away."""
    from worker.state import checkpointer  # it needs torch, which the stores do not

    monkeypatch.setattr(checkpointer, "IDLE_S", 0.02)
    monkeypatch.setattr(checkpointer, "BACKOFF_S", (0.1, 0.4))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a throw-away authority, ca.pem, and what it signed: server.pem, client.pem and their .key files."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    authority.issue("server")
    authority.issue("client")
    return authority.folder
