"""Sessions: several streams that join, pause, move between slots and leave, each at its own pace."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, repeat

from tests.engine.play import Player, Take
from tests.engine.speech import excerpt
from worker.engine.batched import BatchedEngine
from worker.engine.interface import Mode

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


def perform(engine: BatchedEngine, modes: Sequence[Mode], streams: Sequence[Stream]) -> list[tuple[Signal, Take]]:
    """Run a session in which slots hold NaN before their first use and after their last, and the scratch slot does;
    all takes, ended.

    Each round makes one step for every mode in use. Slots are reused last in, first out.
    """
    player = Player(engine)
    free = list(range(len(streams) + 1))
    for slot in free:
        engine._arenas.poison(slot)
    lives = {stream: _live(player, stream, modes[stream.mode % len(modes)], free) for stream in streams}
    takes: dict[Take, Signal] = {}
    while lives:
        steps: dict[tuple[Mode, bool], dict[Take, int]] = {}
        for stream, life in list(lives.items()):
            match next(life, "over"):
                case "over":
                    del lives[stream]
                case (signal, take, chunks) if chunks:
                    takes[take] = signal
                    steps.setdefault((take.mode, stream.empty_end), {})[take] = chunks
        for (_, empty_end), rows in steps.items():
            player.step(rows, empty_end)
    return [(signal, take) for take, signal in takes.items()]


def _live(player: Player, stream: Stream, mode: Mode, free: list[int]) -> Iterator[tuple[Signal, Take, int] | None]:
    """A stream's life: for each round, the segment that is on and the chunks it takes."""
    yield from repeat(None, stream.joins)
    chunks = chain(stream.chunks, repeat(1))
    rounds = count()
    slot = free.pop()
    for number, signal in enumerate(stream.segments):
        take = player.start(slot, excerpt(*signal), mode, opened=number > 0)
        while not take.ended:
            if next(rounds) in stream.moves:
                player.move(take, free.pop())
                free.append(slot)
                slot = take.slot
            yield signal, take, next(chunks)
    player.engine._arenas.poison(slot)
    free.append(slot)
