"""A Redis for each test that asks: it starts in fifty milliseconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.redis import LocalRedis, RedisUnavailable
from tests.certificates import Authority
from tests.conftest import require


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


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a throw-away authority, ca.pem, and what it signed: server.pem, client.pem and their .key files."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    authority.issue("server")
    authority.issue("client")
    return authority.folder
