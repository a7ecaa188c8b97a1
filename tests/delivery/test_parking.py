"""A stream that waits without its audio, and is read again: same finals, same rejects, also across crashes."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.batching.fake import GEOMETRY
from tests.delivery.log import KINDS, NAMES, world
from tests.delivery.test_crashes import check
from tests.delivery.world import Worker
from worker.delivery.table import Table

deeds = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(KINDS), st.integers(100, 4000)), min_size=1, max_size=40
)
acts = st.sampled_from(
    [
        *["read"] * 8,
        *["step", "arrive"] * 3,
        *["park 0", "park 1", "park 2"] * 2,
        *["return 1", "return 2", "read again", "read again", "read again more"],
        *["commit"] * 3,
        *["collect", "capture 0", "capture 1", "save"],
    ]
)
lives = st.lists(st.lists(acts, max_size=80), min_size=1, max_size=4)


class ParkingWorker(Worker):
    """A worker that runs out of memory at any moment."""

    def read(self) -> bool:
        if self.partition.next_offset in self.world.idle:  # the clock ends no stream that has not caught up
            while self.bring_back():
                pass
        return super().read()

    def park(self, index: int) -> None:
        streams = sorted(self.partition._streams.live, key=lambda live: live.row.first_offset)
        if streams:
            self.partition.park(streams[index % len(streams)])

    def return_(self, count: int) -> None:
        parking = self.partition.parking
        if parking.returning is None and len(parking):
            returning = parking.read_again(parking.longest_waiting(count))
            returning.begin(0, self._fetch(Table(live=returning.rows)))

    def read_again(self, records: int = 1) -> bool:
        """So many records, or up to the end of the log: it may come to those that the partition has not read."""
        parking = self.partition.parking
        returning = parking.returning
        if returning is None:
            return False
        if not parking.join():
            for offset in range(returning.next_offset, min(returning.next_offset + records, self.world.end)):
                returning.accept(*self.world.log[offset], offset, 10_000 + offset)
        return True

    def bring_back(self) -> bool:
        self.return_(2)
        return self.read_again()

    def finish(self) -> None:
        while self.read() or self.bring_back() or self.step() or self.arrive():
            pass
        for _ in range(2):
            self.commit()


def live_through(worker: ParkingWorker, plan: list[str]) -> None:
    for act in plan:
        name, _, which = act.partition(" ")
        if act.startswith("read again"):
            worker.read_again(3 if act.endswith("more") else 1)
        elif name == "return":
            worker.return_(int(which))
        elif which:
            getattr(worker, name)(int(which))
        else:
            getattr(worker, name)()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(deeds=deeds, lives=lives, slots=st.integers(1, 3))
def test_waiting_changes_nothing(deeds, lives, slots):
    stage = world(deeds)
    for plan in lives:
        live_through(ParkingWorker(stage, slots), plan)
    last = ParkingWorker(stage, slots)
    last.finish()
    assert not len(last.partition.parking)
    check(stage)
    assert not stage.table().deferred


def test_a_parked_stream_holds_no_audio_and_is_read_again_from_its_first_record():
    script = [("s", "start", 100), *[("s", "audio", 3000)] * 4, ("s", "bytes", 1), *[("s", "audio", 3000)] * 4]
    script += [("t", "start", 100), ("t", "audio", 3000), ("s", "end", 1), ("s", "audio", 300), ("t", "end", 1)]
    stage = world(script)
    worker = ParkingWorker(stage)
    for _ in range(4):
        worker.read()
    waiting = worker.scheduler.occupancy().samples / GEOMETRY.sample_rate
    assert worker.partition.audio_unheard(0) == waiting > 0
    worker.park(0)
    assert not worker.scheduler.waiting_bytes
    assert worker.partition.audio_unheard(0) == waiting
    record = worker.partition.audio_unheard(1) - waiting
    assert 0 < record < waiting
    worker.commit()
    assert stage.committed == 0
    while worker.partition.next_offset not in stage.idle:
        worker.read()
    assert worker.partition.audio_unheard(0) > waiting + 4 * record  # what came meanwhile waits, too
    worker.commit()
    assert (stage.committed, stage.table().deferred) == (0, {"s": 4})
    assert stage.table().read == worker.partition.next_offset > 12
    worker.finish()
    check(stage)
    assert worker.partition.audio_unheard(0) == 0
    assert len(stage.rejects()) > 1


@pytest.mark.parametrize("parked", [0, 1])
def test_a_crash_between_any_two_acts_with_a_stream_parked(parked):
    script = [("s", "start", 101), ("t", "audio", 3000), *[("s", "audio", 2000), ("t", "audio", 1700)] * 3]
    script += [("t", "swapped", 900), ("s", "flush", 3), ("s", "long loss", 1500), ("t", "bytes", 1)]
    script += [("s", "audio", 2500), ("s", "start", 100), ("s", "audio", 2600), ("s", "end", 101), ("s", "audio", 500)]
    turn = ["read", "read", "step", "arrive", f"park {parked}", "read", "commit", "return 1", "read again", "capture 0"]
    plan = [*turn, "step", "arrive", "save", *["read again"] * 6, "commit"] * 6
    for length in range(len(plan) + 1):
        stage = world(script)
        live_through(ParkingWorker(stage), plan[:length])
        ParkingWorker(stage).finish()
        check(stage)
        assert not stage.table().deferred


def test_what_is_read_again_beyond_the_partition_is_not_taken_twice():
    """The reader of what waited gets records in batches: one may reach beyond what the partition has read."""
    script = [("s", "start", 100), *[("s", "audio", 3000)] * 2, ("s", "bytes", 1), ("s", "flush", 2), ("s", "end", 1)]
    stage = world(script)
    worker = ParkingWorker(stage)
    worker.read()
    worker.read()
    worker.park(0)
    worker.return_(1)
    worker.read_again(5)
    worker.read_again()
    worker.finish()
    check(stage)
