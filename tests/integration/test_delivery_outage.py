"""Brokers that stand still: connections stay open, and nobody answers."""

import time

import pytest

from deploy.kafka import LocalKafka
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS
from tests.integration.scene import PARTS, SECONDS, STATIC, assigned, scene, wait
from tests.producer.broker import standing_still

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

DEADLINES = {"kafka.transaction_timeout_ms": 3000, "kafka.request_timeout_ms": 3000}
STILL_S = 10  # longer than a transaction and its abort may take
DRAIN_S = 5
GROWTH_MB = 20


def test_brokers_that_stand_still_cost_time_and_nothing_else(zygote: Zygote) -> None:
    with (
        LocalKafka() as broker,
        scene(broker.bootstrap_servers, zygote, STATIC | DEADLINES | {"drain_timeout_s": DRAIN_S}) as it,
    ):
        calls = it.calls()
        worker = it.group.worker()
        assigned(worker, PARTITIONS)
        calls.say()
        it.heard(worker, PARTITIONS)
        with standing_still(broker):
            resident = []
            until = time.monotonic() + STILL_S
            while time.monotonic() < until:
                resident.append(worker.metric("process_resident_memory_bytes") / 1e6)
                time.sleep(0.5)
            wait(lambda: worker.metric("trunkline_transactions_total", outcome="lost") > 0, worker)
        assert max(resident[2:]) - resident[2] < GROWTH_MB, resident
        calls.say()
        it.heard(worker, PARTITIONS * SECONDS * 2 / PARTS)
        with standing_still(broker):
            began = time.monotonic()
            assert worker.stop() == 0, worker.log_tail()
            assert time.monotonic() - began < DRAIN_S + 4
        assert "the brokers do not answer" in worker.log_tail(40)
        it.group.worker()
        calls.say()
        it.same_as_undisturbed(len(calls))
