"""What the tests of security share: one broker with a listener of every kind."""

from collections.abc import Iterator

import pytest
from confluent_kafka.admin import AdminClient

from deploy.kafka import KafkaUnavailable, LocalKafka
from tests.certificates import Authority
from tests.conftest import own_topics, require
from tests.integration.security.broker import LISTENERS, Secure, settings
from tests.integration.security.doctor import Doctor
from wire import Topics


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("authority"))
    authority.issue("broker", "IP:127.0.0.1,DNS:localhost")
    authority.issue("expired", "IP:127.0.0.1,DNS:localhost", days=-1)
    authority.issue("othername", "DNS:kafka.example")
    authority.issue("bootstrap", "DNS:localhost")
    authority.issue("client")
    return authority


@pytest.fixture(scope="session")
def secure(authority: Authority) -> Iterator[Secure]:
    try:
        kafka = LocalKafka(settings(authority), listeners=LISTENERS)
    except KafkaUnavailable as missing:
        require(False, str(missing))
        raise
    with kafka:
        started = Secure(kafka, authority, AdminClient({"bootstrap.servers": kafka.bootstrap_servers}))
        started.user("scram")
        yield started


@pytest.fixture
def secured_topics(secure: Secure) -> Iterator[Topics]:
    with own_topics(secure.kafka.bootstrap_servers) as names:
        yield names


@pytest.fixture
def doctor(secure, secured_topics, capsys):
    return Doctor(secure.kafka.bootstrap_servers, secured_topics, capsys)
