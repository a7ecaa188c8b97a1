"""A broker that stands still, and its topics."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.kafka import LocalKafka
from tests.conftest import own_topics
from wire import Topics


@contextmanager
def standing_still(broker: LocalKafka) -> Iterator[None]:
    """The broker's process stopped: connections stay open and nobody answers."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


@contextmanager
def topics_on(broker: LocalKafka) -> Iterator[Topics]:
    """Topics of one test on a broker that may just have been stopped."""
    _wait(broker)
    with own_topics(broker.bootstrap_servers) as names:
        yield names
        _wait(broker)


def _wait(broker: LocalKafka) -> None:
    """Nine seconds of standing still, and the cluster counts its broker as gone for a moment."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if AdminClient({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=5).brokers:
                return
        except KafkaException:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.2)
