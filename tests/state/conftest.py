"""A Redis for each test that asks: it starts in fifty milliseconds."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.redis import LocalRedis, RedisUnavailable
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
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, stdin=subprocess.DEVNULL)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
        signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-days", "2", "-extfile", "names"]
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder
