"""Who is in the group, and when: a worker joins with its model loaded, and leaves as soon as it is told to."""

import time
import urllib.error
import urllib.request

import pytest
from confluent_kafka.admin import AdminClient

from deploy.worker import LocalWorker
from deploy.zygote import Zygote
from tests.conftest import PARTITIONS
from tests.integration.disturbed import ends, names
from tests.integration.scene import PARTS, SECONDS, Scene, assigned, scene, wait
from wire import End

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

RECORDS = "trunkline_records_read_total"
REBALANCES = "trunkline_rebalances_total"


def test_only_workers_with_a_loaded_model_are_members(kafka: str, zygote: Zygote) -> None:
    with scene(kafka, zygote, {"kafka.session_timeout_ms": 30_000}) as it:
        first = it.group.worker()
        wait(lambda: page(first) == "loading the model\n", first)
        assert members(it) == set()
        assigned(first, PARTITIONS)
        (only,) = members(it)
        before = first.metric(REBALANCES)
        broken = it.group.worker(settings={"model.source": "/nowhere/model.nemo"})
        assert broken.process.wait(60) == 1
        assert (members(it), first.metric(REBALANCES)) == ({only}, before)

        # one that waits for a dead member's session to end: told to stop, it does not wait for that
        first.kill()
        waiting = it.group.worker()
        wait(lambda: page(waiting) == "joining the consumer group\n", waiting)
        wait(lambda: len(members(it)) == 2, waiting)
        began = time.monotonic()
        assert waiting.stop() == 0, waiting.log_tail()
        assert time.monotonic() - began < 5
        assert members(it) == {only}


def test_a_worker_commits_what_it_read_before_it_gives_partitions_away(kafka: str, zygote: Zygote) -> None:
    with scene(kafka, zygote, {"kafka.commit_interval_ms": 600_000}) as it:
        calls, outputs = it.calls(), it.group.outputs
        host = it.group.worker()
        calls.say(PARTS)
        outputs.until(lambda: len(ends(outputs)) == len(calls), "the ends")
        assert it.group.all_committed()
        read = host.metric(RECORDS)
        for name in names("call", range(PARTITIONS)):
            it.sender.send(name, [End("one")] * 50)  # repeated, so that there is nothing to publish
        wait(lambda: host.metric(RECORDS) == read + 50 * PARTITIONS, host)
        assert not it.group.all_committed()
        guest = it.group.worker()
        assigned(guest, PARTITIONS // 2)
        assert it.group.all_committed()
        assert guest.metric(RECORDS) == 0


def test_partitions_of_a_static_member_that_is_down_stand_still_until_its_session_ends(
    kafka: str, zygote: Zygote
) -> None:
    session_s, half = 8, PARTITIONS // 2
    with scene(kafka, zygote, {"kafka.session_timeout_ms": session_s * 1000}) as it:
        one, two = [it.group.worker(settings={"kafka.instance_id": name}) for name in ("one", "two")]
        assigned(one, half)
        assigned(two, half)
        calls = it.calls()
        part = half * SECONDS / PARTS
        assert one.stop() == 0
        stopped = time.monotonic()
        calls.say()
        it.heard(two, 0.8 * part)
        time.sleep(max(0.0, stopped + session_s / 2 - time.monotonic()))
        assert two.metric("trunkline_audio_processed_seconds_total") <= part
        assert two.metric("trunkline_partitions_assigned") == half
        assigned(two, PARTITIONS)
        calls.say(2)
        it.same_as_undisturbed(len(calls))


def members(it: Scene) -> set[str]:
    """Ids of the group's members, those included that wait to be let in."""
    admin = AdminClient({"bootstrap.servers": it.group.servers})
    (described,) = admin.describe_consumer_groups([it.group.name]).values()
    return {member.member_id for member in described.result(20).members}


def page(worker: LocalWorker) -> str:
    """What `/readyz` says; nothing before its port is open."""
    try:
        with urllib.request.urlopen(f"{worker.address}/readyz", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.read().decode())
    except OSError:
        return ""
