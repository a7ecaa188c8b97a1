"""Calls of real speech on an audio topic, so many at a time, with the disorder that networks make of them."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count

from tests.conftest import PARTITIONS
from tests.integration.sending import PCM, Sender, audio, spoken, start
from wire import Audio, End, Flush, Options
from wire import Record as WireRecord

RECORD_MS = 100
SECONDS = (5.0, 20.0)  # of a call
SHOWS = [(f"call-{number:02d}", channel) for number in range(10) for channel in (0, 1)]
ENCODINGS = ("pcm_s16le", "pcm_f32le", "mulaw", "alaw")
# Of a hundred records. What is missing is up to 1.2 s, so that some gaps are filled and some end a segment.
DUPLICATED, DELAYED, MISSING, BROKEN, FLUSHED = 2.0, 2.0, 0.7, 0.3, 0.7
FARTHEST = 8  # records by which one comes too late
MOST_MISSING = 12  # records
IDLE_MS = 4_000
NEVER_ENDS = 9  # one call in so many: the clock ends it

Item = WireRecord | bytes

shown = lru_cache(None)(spoken)


class Feed:
    """Keeps `at_once` calls open, each told at `speed` times real time; a new one begins when one has ended.

    What a call says depends on the seed and its number alone; how calls lie in the log depends on the moment.
    """

    def __init__(self, sender: Sender, seed: int, at_once: int, speed: float) -> None:
        self.damage: Counter[str] = Counter()
        self.audio_s = 0.0  # sent
        self.calls = 0
        self.probes = 0
        self.ended = 0  # calls
        self._sender = sender
        self._seed = seed
        self._at_once = at_once
        self._interval = RECORD_MS / 1000 / speed
        self._open: dict[str, tuple[float, Iterator[Item], int]] = {}  # when it began, the rest, records sent
        self._unended: set[str] = set()
        self._partition: dict[str, int] = {}

    @property
    def streams(self) -> int:
        """All that were begun."""
        return self.calls + self.probes

    def tick(self, now: float, more: bool = True) -> None:
        """Send what is due; `more`: begin calls, too."""
        while more and len(self._unended) < self._at_once:
            self._begin(now)
        for name, (began, rest, sent) in list(self._open.items()):
            due = int((now - began) / self._interval) - sent
            for _ in range(due):
                item = next(rest, None)
                if item is None:
                    del self._open[name]
                    break
                self._put(name, item)
                sent += 1
            else:
                self._open[name] = (began, rest, sent)

    def saw_end(self, stream: str) -> None:
        """A reader has seen the stream's last event."""
        if stream in self._unended:
            self._unended.discard(stream)
            self.ended += 1

    def quiet(self) -> bool:
        """Whether all that was begun is sent."""
        return not self._open

    def probe(self, partition: int) -> str:
        """A short stream, at once: when its end is read, the partition is alive. Returns its name."""
        samples, rate = shown(*SHOWS[0])
        name = f"probe-{self.probes}"
        self.probes += 1
        records: list[Item] = [start(rate), *audio(samples[: rate * 6 // 10], rate), End("one", rate * 6 // 10)]
        self._sender.put(name, records, partition)
        return name

    def _begin(self, now: float) -> None:
        number = self.calls
        self.calls += 1
        rng = random.Random(f"{self._seed}/{number}")
        name = f"call-{number}"
        samples, rate = shown(*rng.choice(SHOWS))
        size = int(rng.uniform(*SECONDS) * rate)
        first = rng.randrange(max(1, len(samples) - size))
        records, damage = told(samples[first : first + size], rate, rng, ends=number % NEVER_ENDS != 4)
        self.damage += damage
        self._partition[name] = number % PARTITIONS
        self._unended.add(name)
        if number % NEVER_ENDS == 4:  # at once: it must not be idle before all of it is there
            for item in records:
                self._put(name, item)
        else:
            self._open[name] = (now, iter(records), 0)

    def _put(self, name: str, item: Item) -> None:
        if isinstance(item, Audio):
            self.audio_s += RECORD_MS / 1000
        self._sender.put(name, [item], self._partition[name])


def told(samples: PCM, rate: int, rng: random.Random, ends: bool) -> tuple[Sequence[Item], Counter[str]]:
    """A stream's records with some of them damaged, and how many of each kind."""
    encoding = rng.choice(ENCODINGS)
    options = Options(endpoint_ms=300, idle_ms=None if ends else IDLE_MS)
    damage: Counter[str] = Counter()
    at: list[tuple[float, Item]] = []  # each record and its place in the order of arrival
    flushes = count()
    skip = 0
    for place, record in enumerate(audio(samples, rate, encoding, ms=RECORD_MS)):
        if skip:
            skip -= 1
            continue
        if _hit(rng, MISSING):
            skip = rng.randint(0, MOST_MISSING - 1)
            damage["chunks missing"] += skip + 1
            continue
        late = rng.randint(1, FARTHEST) + 0.5 if _hit(rng, DELAYED) else 0.0
        damage["chunks delayed"] += late > 0
        at.append((place + late, record))
        if _hit(rng, DUPLICATED):
            damage["chunks duplicated"] += 1
            at.append((place + rng.randint(0, FARTHEST) + 0.6, record))
        if _hit(rng, FLUSHED):
            at.append((place + 0.7, Flush(f"flush-{next(flushes)}", "one")))
        if _hit(rng, BROKEN):
            damage["records that are none"] += 1
            at.append((place + 0.8, b"\xc1" + rng.randbytes(4)))
    at.sort(key=lambda pair: pair[0])
    items: list[Item] = [start(rate, encoding, options), *(item for _, item in at)]
    return [*items, End("one", len(samples))] if ends else items, +damage


def _hit(rng: random.Random, percent: float) -> bool:
    return rng.random() * 100 < percent
