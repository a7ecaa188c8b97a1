"""One run: calls, workers and what befalls them; then an undisturbed worker hears the same audio, for comparison."""

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from deploy.kafka import LocalKafka
from deploy.redis import LocalRedis
from deploy.toxiproxy import LocalToxiproxy
from deploy.zygote import Zygote
from tests.chaos import schedule
from tests.chaos.around import records
from tests.chaos.feed import Feed
from tests.chaos.fleet import Fleet
from tests.chaos.outside import Outside
from tests.chaos.verdict import Verdict, compare
from tests.conftest import own_topics
from tests.integration.disturbed import Group, group_on
from tests.integration.scene import redis_settings
from tests.integration.sending import Sender
from wire import StreamEnd

SESSION_MS = 3_000  # short, since all of a run but this is waiting
BROKER = {"group.min.session.timeout.ms": "1000"}  # else it refuses such a session
SETTLE_S = 180.0  # from the last fault until all is told: a replay of all that is open, twice over
COMMIT_MS = 300
SLOTS = 8  # fewer than calls at once, so that streams are moved out and wait
REPORT_S = 10.0


@dataclass(frozen=True)
class Plan:
    """Faults go on for `minutes`, and until there were `kills`. `calls` at once, each `speed` times real time."""

    seed: int
    store: str = "redis"
    minutes: float = 3.0
    kills: int = 0
    workers: int = 4
    cold: int = 2
    calls: int = 16
    speed: float = 8.0


@dataclass
class Result:
    """What befell the group, and what came of it. `recoveries`: seconds from a kill to the end of streams sent then."""

    plan: Plan
    faults: Counter[str]
    damage: Counter[str]
    kills: int
    rebalances: int
    refused: int  # transactions aborted since a send within them was refused
    calls: int
    audio_s: float
    finals: int
    recoveries: list[float]
    crashes: list[str]  # the ends of the logs of workers that ended by themselves
    verdict: Verdict
    logs: Path  # of all workers; empty if all is well
    records: list[str]  # of the audio topic, around the first thing wrong

    @property
    def good(self) -> bool:
        return self.verdict.good and not self.crashes


class Run:
    """The disturbed half."""

    def __init__(self, plan: Plan, group: Group, feed: Feed, fleet: Fleet, outside: Outside) -> None:
        self._plan = plan
        self._group = group
        self._feed = feed
        self._fleet = fleet
        self._outside = outside
        self._read = 0  # finals looked at
        self._ended: set[str] = set()  # ids of the events that ended a stream
        self._reported = 0.0

    def disturb(self, say: Callable[[str], None]) -> None:
        """Faults until the plan is fulfilled, from the first event on."""
        deadline = time.monotonic() + SETTLE_S
        while not self._read:
            assert time.monotonic() < deadline, f"no event in {SETTLE_S:.0f} s\n{self._group.logs()}"
            self._tick(time.monotonic(), say, more=True)
        began = time.monotonic()
        coming = schedule.faults(self._plan.seed, self._plan.store == "redis")
        wait, kind = next(coming)
        due = began + wait
        while (now := time.monotonic()) < began + self._plan.minutes * 60 or self._fleet.kills < self._plan.kills:
            self._tick(now, say, more=True)
            if now < due:
                continue
            if kind in (schedule.KILL, schedule.STOP, schedule.JOIN, schedule.DRAIN):
                if not self._fleet.inflict(kind, now):
                    continue  # until there is somebody
            else:
                self._outside.inflict(kind)
            wait, kind = next(coming)
            due = now + wait

    def settle(self, say: Callable[[str], None]) -> None:
        """Until all is told and committed. Raises AssertionError with the workers' logs if that takes too long."""
        self._outside.rest()
        self._fleet.rest(time.monotonic())
        deadline = time.monotonic() + SETTLE_S
        looked = 0.0
        while True:
            now = time.monotonic()
            self._tick(now, say, more=False)
            if self._feed.quiet() and len(self._ended) >= self._feed.streams and now - looked > 0.5:
                looked = now
                if self._group.all_committed():
                    return
            missing = self._feed.streams - len(self._ended)
            assert now < deadline, f"{missing} streams have not ended {SETTLE_S:.0f} s later\n{self._group.logs()}"

    def _tick(self, now: float, say: Callable[[str], None], more: bool) -> None:
        self._group.outputs.poll(0.02)
        finals = self._group.outputs.finals
        for out in finals[self._read :]:
            if isinstance(out.event, StreamEnd):
                self._feed.saw_end(out.event.head.stream)
                self._fleet.saw_end(out.event.head.stream, now)
                self._ended.add(out.event.head.id)
        self._read = len(finals)
        self._feed.tick(now, more)
        self._fleet.tick(now)
        if now - self._reported > REPORT_S:
            self._reported = now
            say(
                f"{self._fleet.kills} kills, {sum(self._outside.faults.values())} faults outside, "
                f"{self._feed.ended} of {self._feed.calls} calls have ended, {len(finals)} finals"
            )


def run(plan: Plan, zygote: Zygote, say: Callable[[str], None] = print) -> Result:
    """Raises AssertionError when the group does not come to an end."""
    with ExitStack() as stack:
        broker = stack.enter_context(LocalKafka(BROKER))
        servers = broker.bootstrap_servers
        redis = proxy = None
        settings: dict[str, object] = {
            "kafka.session_timeout_ms": SESSION_MS,
            "kafka.commit_interval_ms": COMMIT_MS,
            "batching.slots": SLOTS,
        }
        if plan.store == "redis":
            redis = stack.enter_context(LocalRedis())
            proxy = stack.enter_context(LocalToxiproxy(f"127.0.0.1:{redis.port}"))
            stored = redis_settings(redis) | {"state.redis_url": f"redis://{proxy.address}/0"}
            settings = stored | settings
            del settings["kafka.instance_id"]
        topics = stack.enter_context(own_topics(servers))
        group = stack.enter_context(group_on(servers, topics.audio, zygote, settings))
        sender = Sender(servers, topics.audio)
        stack.callback(sender.close)
        feed = Feed(sender, plan.seed, plan.calls, plan.speed)
        places = schedule.places(plan.seed, plan.store == "redis")
        outside = Outside(broker, group.topics, redis, proxy, plan.seed)
        session_s = SESSION_MS / 1000
        fleet = Fleet(group, plan.seed, places, feed.probe, outside, plan.workers, plan.cold, session_s)
        disturbed = Run(plan, group, feed, fleet, outside)
        try:
            disturbed.disturb(say)
            disturbed.settle(say)
            group.finish(feed.streams, 0)
            say(f"all is told; {feed.audio_s:.0f} s of audio once more, undisturbed")
            alone = stack.enter_context(group_on(servers, topics.audio, zygote))
            alone.worker()
            alone.finish(feed.streams, 0, SETTLE_S + feed.audio_s / 10)
            verdict = compare(group.outputs, alone.outputs)
            around = records(servers, topics.audio, *verdict.where) if verdict.where else []
        except BaseException:
            say(f"seed {plan.seed}; the workers' logs: {kept(group)}")
            raise
        crashes = [worker.log_tail(40) for worker in fleet.crashes]
        return Result(
            plan,
            fleet.faults + outside.faults,
            feed.damage,
            fleet.kills,
            fleet.rebalances,
            fleet.refused,
            feed.calls,
            feed.audio_s,
            len(alone.outputs.finals),
            [outage.recovered for outage in fleet.outages if outage.recovered is not None],
            crashes,
            verdict,
            kept(group) if crashes or not verdict.good else Path(),
            around,
        )


def kept(group: Group) -> Path:
    """A folder with the logs of all workers."""
    folder = Path(tempfile.mkdtemp(prefix="trunkline-chaos-"))
    for number, worker in enumerate(group.workers):
        (folder / f"worker-{number:03d}.log").write_bytes(worker.log_file.read_bytes())
    return folder
