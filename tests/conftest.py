"""Real parts shared by all tests: one Kafka for the session, topics of its own for each test.

`make test` skips what a machine lacks and says why. With TRUNKLINE_TESTS_NO_SKIP=1, as in CI, a missing part
is a failure: a machine that should have everything must not go green by running nothing.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from deploy.kafka import KafkaUnavailable, broker
from wire.topics import Topics, specs
from worker.ingest import topics as admin

PARTITIONS = 4


# Files whose tests share something that takes long to start: one process runs all of a group.
TOGETHER = {
    "integration/test_delivery": "delivery",
    "integration/test_group": "delivery",
    "integration/test_alerts": "delivery",
    "integration/": "integration",
}


@pytest.hookimpl(wrapper=True)  # before the plugin that reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """With several processes (`-n 2 --dist loadgroup`) a file stays in one, so that its fixtures are made once."""
    for item in items:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        group = next((group for beginning, group in TOGETHER.items() if path.startswith(beginning)), path)
        item.add_marker(pytest.mark.xdist_group(group))
    result = yield
    if getattr(config.option, "loadgroup", False) and not all("@" in item.nodeid for item in items):
        raise pytest.UsageError("pytest-xdist does not group the tests: it does not fit this pytest")
    return result


def require(condition: object, reason: str) -> None:
    """Go on if the condition holds; else skip with the reason, or fail when skipping is not allowed."""
    if condition:
        return
    if os.environ.get("TRUNKLINE_TESTS_NO_SKIP") == "1":
        pytest.fail(f"not skipped, since TRUNKLINE_TESTS_NO_SKIP=1: {reason}")
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Bootstrap servers of a real Kafka: KAFKA_BOOTSTRAP_SERVERS, else one started for this session."""
    running = broker()
    try:
        servers = running.__enter__()
    except KafkaUnavailable as missing:
        require(False, str(missing))
        raise
    try:
        yield servers
    finally:
        running.__exit__(None, None, None)


@contextmanager
def own_topics(servers: str, partitions: int = PARTITIONS) -> Iterator[Topics]:
    """The five topics under names that nobody else has; deleted afterwards."""
    tag = uuid.uuid4().hex[:8]
    names = Topics(*(f"{name}.{tag}" for name in astuple(Topics())))
    asyncio.run(admin.create(specs(names, partitions), bootstrap_servers=servers))
    try:
        yield names
    finally:
        _delete(names, servers)


def _delete(names: Topics, servers: str) -> None:
    """Again for a while: a broker that a test has disturbed may be missing from its own cluster for a moment."""
    until = time.monotonic() + 20
    while True:
        try:
            asyncio.run(admin.delete(astuple(names), bootstrap_servers=servers))
            return
        except KafkaError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


@pytest.fixture
def topics(kafka: str) -> Iterator[Topics]:
    """The five topics under names of this test's own, with PARTITIONS partitions."""
    with own_topics(kafka) as names:
        yield names
