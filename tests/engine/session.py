"""Sessions: several streams that join, pause, move between slots and leave, each at its own pace."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, repeat
from random import Random
from typing import Any

from torch import Tensor

from tests.engine.greedy import judge
from tests.engine.play import Player, Take, difference, offline, poison
from tests.engine.speech import excerpt
from worker.engine.batched import BatchedEngine
from worker.engine.interface import Mode

CROWD = 32  # streams at once, in some sessions
TOLERANCE = 1e-4

Signal = tuple[int, int]  # seed and length of an excerpt


@dataclass(frozen=True, eq=False)
class Stream:
    """What one stream of a session does."""

    mode: int  # index into the session's modes
    segments: tuple[Signal, ...]  # all but the first begin without the slot being opened again
    joins: int  # the round
    chunks: tuple[int, ...]  # taken in each round of its life, 0 a pause; 1 when used up
    moves: frozenset[int]  # rounds of its life before which it is saved and loaded elsewhere
    empty_end: bool  # a segment that ends just with a chunk ends in a row without samples


@dataclass(slots=True)
class Met:
    """The most rows and encoder passes of one step, over the sessions that were given this to fill."""

    rows: int = 0
    passes: int = 0


def draw_session(random: Random, signals: Sequence[Signal]) -> list[Stream]:
    """Mostly a few streams, now and then a crowd; mostly of one mode."""
    crowded = random.random() < 0.06
    favourite, of_one_mode = random.randrange(6), 1.0 if random.random() < 0.75 else 0.5
    return [
        _draw_stream(random, signals, favourite if random.random() < of_one_mode else random.randrange(6))
        for _ in range(random.randint(9, CROWD) if crowded else random.choice([1, 2, 2, 3, 3, 4, 6, 8]))
    ]


def draw_crowd(random: Random, signals: Sequence[Signal]) -> list[Stream]:
    """As many streams as can be, of one mode, from the first round on; one takes the longest signal in one step."""
    mode = random.randrange(6)
    longest = max(signals, key=lambda signal: signal[1])
    whole = Stream(mode, (longest,), joins=1, chunks=(longest[1],), moves=frozenset(), empty_end=False)
    return [whole, *(_draw_stream(random, signals, mode, joins=0) for _ in range(CROWD - 1))]


def _draw_stream(random: Random, signals: Sequence[Signal], mode: int, joins: int | None = None) -> Stream:
    return Stream(
        mode=mode,
        segments=tuple(random.choice(signals) for _ in range(random.choice([1, 1, 1, 1, 2, 3]))),
        joins=random.randint(0, 4) if joins is None else joins,
        chunks=tuple(random.choice([0, 1, 1, 2, 3, 9, 30]) for _ in range(random.randint(0, 30))),
        moves=frozenset(random.sample(range(12), random.choice([0, 0, 1, 2]))),
        empty_end=random.random() < 0.3,
    )


def perform(
    engine: BatchedEngine, modes: Sequence[Mode], streams: Sequence[Stream], met: Met | None = None
) -> list[tuple[Signal, Take]]:
    """Run a session in which slots hold NaN before their first use and after their last, and the scratch slot does;
    all takes, ended.

    Each round makes one step for every mode in use. Slots are reused last in, first out.
    """
    met = met or Met()
    player = Player(engine)
    free = list(range(len(streams) + 1))
    for slot in free:
        poison(engine._arenas, slot)
    lives = {stream: _live(player, stream, modes[stream.mode % len(modes)], free) for stream in streams}
    takes: dict[Take, Signal] = {}
    while lives:
        steps: dict[Mode, dict[Take, int]] = {}
        for stream, life in list(lives.items()):
            match next(life, "over"):
                case "over":
                    del lives[stream]
                case (signal, take, chunks) if chunks:
                    takes[take] = signal
                    steps.setdefault(take.mode, {})[take] = chunks
        for rows in steps.values():
            before = engine.calls["encoder"]
            player.step(rows)
            met.rows = max(met.rows, len(rows))
            met.passes = max(met.passes, engine.calls["encoder"] - before)
    return [(signal, take) for take, signal in takes.items()]


def _live(player: Player, stream: Stream, mode: Mode, free: list[int]) -> Iterator[tuple[Signal, Take, int] | None]:
    """A stream's life: for each round, the segment that is on and the chunks it takes."""
    yield from repeat(None, stream.joins)
    chunks = chain(stream.chunks, repeat(1))
    rounds = count()
    slot = free.pop()
    for number, signal in enumerate(stream.segments):
        take = player.start(slot, excerpt(*signal), mode, opened=number > 0, empty_end=stream.empty_end)
        while not take.ended:
            if next(rounds) in stream.moves:
                player.move(take, free.pop())
                free.append(slot)
                slot = take.slot
            yield signal, take, next(chunks)
    poison(player.engine._arenas, slot)
    free.append(slot)


def oracle(nemo: Any, left: dict[int, int]) -> Callable[[Signal, int], Tensor]:
    """What NeMo makes of a signal offline, at a look-ahead."""
    return cache(lambda signal, look_ahead: offline(nemo, excerpt(*signal), (left[look_ahead], look_ahead)))


def check(nemo: Any, take: Take, encoded: Tensor) -> int:
    """Frames and tokens of a take are those of NeMo offline; how many frames it has before one at which another exact
    play may decide otherwise."""
    assert take.tokens.heard == len(encoded)
    assert difference(take.frames, encoded) <= TOLERANCE
    return judge(nemo, encoded, take.tokens, take.mode.decoder)
