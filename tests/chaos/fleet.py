"""Workers that die, stand still, come and go; each that is gone is replaced."""

import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deploy.worker import LocalWorker
from tests.chaos.outside import Outside
from tests.chaos.schedule import DRAIN, JOIN, KILL, STOP
from tests.integration.disturbed import Group

LEFT = 1  # that have partitions, when one is killed, stopped or drained
PAUSE_S = 1.0  # at most, until a worker that is gone is replaced
BACKOFF_S = 3.0  # until one is that could not start
STAY_S = (3.0, 8.0)  # of a worker that joins and leaves
STAND_STILL_S = (1.5, 4.0)  # more than the session time-out
NO_BROKER = re.compile('"level": "critical".*"message": "Kafka at ')  # a worker that could not start
GIVES_UP_S = 90.0  # after the broker is back, at the latest: a start on a busy machine, and its time-outs
LEAVES_S = 60.0  # a worker that is told to: more than its drain_timeout_s, on a busy machine
LISTENS = "metrics at http"  # the first that it logs after it has begun to listen to SIGTERM
COLD_FIRST = 2  # starts until the first cold one; a cold one takes as long as ten others


@dataclass
class Seat:
    """A place in the fleet: its worker, and what is to become of it."""

    name: str
    static: bool = False  # a member that comes back under its name within the session time-out
    guest: bool = False  # nobody replaces it
    worker: LocalWorker | None = None
    place: str | None = None  # where it is to die
    killed: bool = False  # by us
    until: float = float("inf")  # when it goes on (if it stands still), leaves (a guest) or is replaced
    told: float = float("inf")  # when it was told to leave
    still: bool = False


@dataclass
class Outage:
    """A kill, and the streams that were sent at that moment to the partitions of the worker that was killed."""

    at: float
    waiting: set[str]
    recovered: float | None = None


class Fleet:
    """`size` workers of a group; half of them are static members. `probe` sends a stream to a partition."""

    def __init__(
        self,
        group: Group,
        seed: int,
        places: Iterator[str | None],
        probe: Callable[[int], str],
        outside: Outside,
        size: int,
        cold: int,
        session_s: float,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self.kills = 0
        self.outages: list[Outage] = []
        self.crashes: list[LocalWorker] = []
        self.calm = False  # nobody is to die any more
        self._group = group
        self._rng = random.Random(f"{seed}/fleet")
        self._places = places
        self._probe = probe
        self._outside = outside
        self._cold = cold
        self._session_s = session_s
        self._starts = 0
        self._seats = [Seat(f"seat-{number}", static=number % 2 == 1, until=0.0) for number in range(size)]

    def tick(self, now: float) -> None:
        """See who is gone, and start, continue or end whom it is time for."""
        for seat in list(self._seats):
            if seat.worker is not None and (code := seat.worker.process.poll()) is not None:
                self._gone(seat, seat.worker, code, now)
            elif seat.worker is not None and now > seat.told + LEAVES_S:
                self.crashes.append(seat.worker)  # it does not end
                seat.worker.process.kill()
                seat.told = float("inf")
            elif now < seat.until:
                continue
            elif seat.worker is None:
                self._start(seat, now)
            elif seat.still:
                seat.worker.process.send_signal(signal.SIGCONT)
                seat.still, seat.until = False, float("inf")
            elif seat.guest:
                self._tell(seat, now)
                seat.until = float("inf")

    def inflict(self, kind: str, now: float) -> bool:
        """One fault; False if nobody was there whom it could befall."""
        if kind == JOIN:
            self._seats.append(Seat(f"guest-{self._starts}", guest=True, until=now))
            self.faults[JOIN] += 1
            return True
        able = [seat for seat in self._seats if not seat.still and not seat.guest and owned(seat.worker)]
        if len(able) < LEFT + 1:  # else a machine that starts workers slowly would have none that works
            return False
        seat = self._rng.choice(able)
        assert seat.worker is not None
        if kind == KILL:
            seat.killed = True
            seat.worker.process.kill()
        elif kind == STOP:
            seat.worker.process.send_signal(signal.SIGSTOP)
            seat.still, seat.until = True, now + self._session_s + self._rng.uniform(*STAND_STILL_S)
            self.faults[STOP] += 1
        elif kind == DRAIN:
            self._tell(seat, now)
            self.faults[DRAIN] += 1
        return True

    def saw_end(self, stream: str, now: float) -> None:
        """A reader has seen the stream's last event."""
        for outage in self.outages:
            if stream in outage.waiting:
                outage.waiting.discard(stream)
                if not outage.waiting:
                    outage.recovered = now - outage.at

    def rest(self, now: float) -> None:
        """From now on nobody dies; those who stand still go on at once, and those who would die are replaced."""
        self.calm = True
        for seat in self._seats:
            if seat.still:
                seat.until = now
            elif seat.worker is not None and seat.place is not None:
                self._tell(seat, now)

    @property
    def rebalances(self) -> int:
        """Generations of the group after its first."""
        generations = self._logged(r"Joined group '.+' \(generation (\d+)\)")
        return max(map(int, generations), default=1) - 1

    @property
    def refused(self) -> int:
        """Transactions that were aborted since the broker refused a send within them."""
        return len(self._logged("was aborted: MessageSizeTooLargeError"))

    def _logged(self, pattern: str) -> list[str]:
        logs = (worker.log_file.read_text(errors="replace") for worker in self._group.workers)
        return [found for log in logs for found in re.findall(pattern, log)]

    def _tell(self, seat: Seat, now: float) -> None:
        assert seat.worker is not None
        seat.worker.process.terminate()
        seat.told = now

    def _start(self, seat: Seat, now: float) -> None:
        cold = self._cold > 0 and self._starts >= COLD_FIRST and not seat.guest
        self._cold -= cold
        self._starts += 1
        seat.place = None if self.calm or seat.guest else next(self._places)
        settings = {"kafka.instance_id": seat.name} if seat.static else {}
        seat.worker = self._group.worker(seat.place, settings, cold)
        seat.killed, seat.until, seat.told = False, float("inf"), float("inf")
        if cold:
            self.faults["cold start"] += 1
        if seat.guest:
            seat.until = now + self._rng.uniform(*STAY_S)

    def _gone(self, seat: Seat, worker: LocalWorker, code: int, now: float) -> None:
        if code == -signal.SIGKILL:
            self.kills += 1
            place = "any moment" if seat.killed or seat.place is None else seat.place.partition(":")[0]
            self.faults[f"killed at {place}"] += 1
            waiting = {self._probe(partition) for partition in owned(worker)}
            if waiting:
                self.outages.append(Outage(now, waiting))
        elif code != 0:
            log = worker.log_file.read_text(errors="replace")
            if NO_BROKER.search(log) and now < self._outside.broker_back + GIVES_UP_S:
                self.faults["gave up starting"] += 1
                now += BACKOFF_S
            elif code != -signal.SIGTERM or LISTENS in log:
                self.crashes.append(worker)
        seat.worker, seat.still = None, False
        seat.until = now + self._rng.uniform(0, PAUSE_S)
        if seat.guest:
            self._seats.remove(seat)


def owned(worker: LocalWorker | None) -> list[int]:
    """The partitions that it was given last, by its log."""
    if worker is None:
        return []
    found = re.findall(r"partitions assigned: \[(.*)\]", worker.log_file.read_text(errors="replace"))
    return [int(number) for number in found[-1].split(",")] if found and found[-1] else []
