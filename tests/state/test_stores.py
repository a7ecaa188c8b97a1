"""The contract of every state store, on the device and on a real Redis, and what is measured of it."""

import asyncio

import pytest

from tests.state.contract import DEADLINE_S, Contract, redis_store, started
from worker.state.device import DeviceStore
from worker.state.measured import MeasuredStore
from worker.state.store import StoreUnavailable
from worker.telemetry.metrics import Metrics


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
