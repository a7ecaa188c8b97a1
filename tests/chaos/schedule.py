"""Which fault comes when, drawn from a seed."""

import random
from collections.abc import Iterator

# Faults come in bursts: a worker takes some seconds from its start to its first event.
GAP_S = (0.3, 1.6)
PAUSE_S = (4.0, 7.0)
PAUSES = 0.15  # of all gaps

COMMIT = tuple(f"commit.{step}" for step in ("1-collected", "2-begun", "3-sent", "4-rows", "5-offsets", "6-committed"))
DISCARD = ("commit.7-discarded",)  # only where there are checkpoints
RESTORE = tuple(f"restore.{step}" for step in ("1-owned", "2-fenced", "3-table", "4-checkpoints"))

KILL, STOP, JOIN, DRAIN = "kill", "stop and continue", "join and leave", "drain"
BROKER, BROKER_KILL = "broker restarted", "broker killed"
REFUSED_FINAL, REFUSED_ROW = "send refused: final", "send refused: row"
REDIS_RESTART, REDIS_FLUSH = "Redis restarted", "Redis flushed"
REDIS_LATENCY, REDIS_BLACKHOLE, REDIS_RESET = "Redis latency", "Redis blackhole", "Redis reset"

# One round of faults, in an order that is drawn; a kind that matters more comes more often.
ROUND = (*[KILL] * 10, *[STOP] * 2, *[JOIN] * 3, *[DRAIN] * 2, REFUSED_FINAL, REFUSED_ROW)
ROUND_REDIS = (REDIS_RESTART, REDIS_FLUSH, REDIS_LATENCY, REDIS_BLACKHOLE, REDIS_RESET)


def faults(seed: int, redis: bool) -> Iterator[tuple[float, str]]:
    """Seconds until the next fault, and its kind; for ever. Every kind comes once in a round at least."""
    rng = random.Random(f"{seed}/faults")
    brokers = [BROKER, BROKER_KILL]
    rng.shuffle(brokers)
    while True:
        brokers.reverse()  # the one, then the other: a restart takes as long as ten kills
        kinds = [*ROUND, brokers[0], *(ROUND_REDIS if redis else ())]
        rng.shuffle(kinds)
        for kind in kinds:
            yield rng.uniform(*(PAUSE_S if rng.random() < PAUSES else GAP_S)), kind


def places(seed: int, redis: bool) -> Iterator[str | None]:
    """Where each worker that is started is to die, or None; every place once in a round, in an order that is drawn."""
    rng = random.Random(f"{seed}/places")
    while True:
        named: list[str | None] = [f"{place}:{rng.randint(1, 12)}" for place in COMMIT + (DISCARD if redis else ())]
        named += [f"{place}:{rng.randint(1, 2)}" for place in RESTORE]
        named += [None] * len(named)  # these die at any moment
        rng.shuffle(named)
        yield from named
