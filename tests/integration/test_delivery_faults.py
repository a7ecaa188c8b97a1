"""What befalls a call in mid-air: a worker that stands still, brokers and Redis that go away, too few slots.

Each test has an audio topic of its own, into which it puts the calls part by part; when it is over, an undisturbed
worker hears the same topic.
"""

import signal
import time

import pytest

from deploy.kafka import LocalKafka
from deploy.redis import LocalRedis
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS
from tests.integration.scene import PARTS, SECONDS, STATIC, assigned, redis_settings, scene, wait

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

LOST = {"outcome": "lost"}


def test_a_worker_that_stood_still_publishes_nothing_when_it_goes_on(kafka: str, zygote: Zygote) -> None:
    with scene(kafka, zygote, {"kafka.session_timeout_ms": 6000}) as it:
        calls = it.calls()
        zombie = it.group.worker()
        assigned(zombie, PARTITIONS)
        calls.say()
        it.heard(zombie, PARTITIONS)
        zombie.process.send_signal(signal.SIGSTOP)
        calls.say()
        heir = it.group.worker()
        assigned(heir, PARTITIONS)
        it.heard(heir, PARTITIONS * SECONDS / PARTS)
        published = len(it.group.outputs.finals)
        zombie.process.send_signal(signal.SIGCONT)
        wait(lambda: zombie.metric("trunkline_transactions_total", **LOST) > 0, zombie)
        calls.say()
        it.same_as_undisturbed(len(calls))
        assert len(it.group.outputs.finals) > published


def test_a_broker_that_is_killed_and_comes_back(zygote: Zygote) -> None:
    """After a time in which no call could be heard, and so none was idle."""
    idle_s = 8
    with LocalKafka() as broker, scene(broker.bootstrap_servers, zygote, {"stream.idle_ms": idle_s * 1000}) as it:
        calls = it.calls()
        worker = it.group.worker()
        assigned(worker, PARTITIONS)
        calls.say()
        it.heard(worker, PARTITIONS)
        broker.kill()
        time.sleep(idle_s + 2)
        broker.restart()
        calls.say(2)
        it.same_as_undisturbed(len(calls))
        assert worker.process.poll() == 0


def test_redis_that_goes_away_in_mid_call_and_comes_back_empty(kafka: str, zygote: Zygote) -> None:
    with LocalRedis() as server, scene(kafka, zygote, redis_settings(server)) as it:
        calls = it.calls()
        worker = it.group.worker()
        assigned(worker, PARTITIONS)
        calls.say()
        it.checkpointed(worker, server)
        assert worker.metric("trunkline_state_store_up") == 1
        server.stop()
        calls.say()
        wait(lambda: worker.metric("trunkline_state_store_up") == 0, worker)
        it.heard(worker, PARTITIONS * SECONDS * 2 / PARTS - 2 * PARTITIONS)  # it goes on
        worker.kill()  # what its commits rely on is gone
        worker = it.group.worker()
        assigned(worker, PARTITIONS)
        server.start()
        wait(lambda: worker.metric("trunkline_state_store_up") == 1, worker)
        it.checkpointed(worker, server)
        worker.kill()
        heir = it.group.worker()
        assigned(heir, PARTITIONS)
        wait(lambda: heir.metric("trunkline_checkpoints_total", outcome="restored") == PARTITIONS, heir)
        calls.say()
        it.same_as_undisturbed(len(calls))


def test_redis_that_forgets_everything_costs_a_replay(kafka: str, zygote: Zygote) -> None:
    with LocalRedis() as server, scene(kafka, zygote, redis_settings(server)) as it:
        calls = it.calls()
        worker = it.group.worker()
        assigned(worker, PARTITIONS)
        calls.say()
        it.checkpointed(worker, server)
        worker.kill()
        server.stop()
        server.start()  # keeps nothing
        heir = it.group.worker()
        calls.say(2)
        it.same_as_undisturbed(len(calls))
        assert "0 of them from checkpoints" in heir.log_file.read_text()


@pytest.mark.parametrize("store", ["device", "redis"])
def test_more_streams_than_slots(store: str, kafka: str, zygote: Zygote, redis: LocalRedis) -> None:
    settings = STATIC if store == "device" else redis_settings(redis)
    with scene(kafka, zygote, settings | {"batching.slots": 2}) as it:
        calls = it.calls(per_partition=2)
        calls.say()
        victim = it.group.worker()
        it.heard(victim, len(calls))
        calls.say()
        victim.kill()
        it.group.worker()
        calls.say()
        it.same_as_undisturbed(len(calls))
