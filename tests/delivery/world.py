"""A partition without Kafka: a log, the topics as commits leave them, and workers that read, compute and die.

What a worker does at its own pace (read, step, take results, commit, save checkpoints) is one method each here, so
that a test may order them in any way and stop a worker between any two. A commit is applied whole or not at all,
which is what a transaction promises.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from tests.batching.fake import GEOMETRY, INFO, MODES, FakeEngine
from wire import Final, Topics, decode_final
from worker.batching.feed import Feed
from worker.batching.runner import Done, Runner
from worker.batching.scheduler import Scheduler
from worker.delivery.ledger import Batch, Headers, Letter
from worker.delivery.outbox import Outbox
from worker.delivery.partials import Partials
from worker.delivery.table import Row as TableRow
from worker.delivery.table import Table, row_key
from worker.engine.interface import Row, SlotState, Tokens
from worker.live import Deployment, LiveStream, try_out
from worker.partition import Partition
from worker.settings import KafkaSettings, StreamSettings
from worker.state.checkpoint import Checkpoint, Fingerprint, decode, encode
from worker.telemetry.metrics import Metrics

NUMBER = 3
KAFKA = KafkaSettings()
FINGERPRINT = Fingerprint("fake", "one list of samples")
STREAM = StreamSettings(
    sample_rate=16000, endpoint_ms=160, max_utterance_ms=800, reorder_ms=300, gap_fill_ms=100, max_gap_ms=10_000
)


class Speaking(FakeEngine):
    """What it says in a frame follows from the frame's first sample alone, however the audio was cut into steps."""

    def step(self, rows: Sequence[Row]) -> list[Tokens]:
        heard = {row.slot: self._audio(row.slot) for row in rows}
        frames = {slot: self._frames(slot) for slot in heard}
        found = super().step(rows)
        for row, tokens in zip(rows, found, strict=True):
            audio = np.concatenate([heard[row.slot], row.samples])
            for frame in range(frames[row.slot], tokens.heard):
                at = frame * GEOMETRY.frame_samples
                value = round(float(audio[at]) * 32768) if at < len(audio) else 0
                if value % 5 in (1, 2, 3):
                    tokens.ids.append(value % 5 - 1)
                    tokens.frames.append(frame)
                    tokens.confidences.append(value % 100 / 100)
        return found

    def save(self, slot: int) -> SlotState:
        state = super().save(slot)
        heard = np.append(self._audio(slot), np.float32(0))  # as with a real engine, no tensor is empty
        return replace(state, tensors={"heard": torch.from_numpy(heard)})

    def load(self, slot: int, state: SlotState) -> None:
        super().load(slot, replace(state, tensors={"heard": [state.tensors["heard"].numpy()[:-1]]}))

    def _audio(self, slot: int) -> np.ndarray:
        held = self.held[slot]
        return np.concatenate([np.zeros(0, np.float32), *held.heard]) if held else np.zeros(0, np.float32)

    def _frames(self, slot: int) -> int:
        samples = len(self._audio(slot))
        return (samples - GEOMETRY.half_window) // GEOMETRY.frame_samples + 1 if samples else 0


@dataclass
class World:
    """What outlives a worker. `log`: key and value of each record from offset `first` on, or an idle stream's name."""

    log: Mapping[int, tuple[bytes | None, bytes | None]]
    idle: Mapping[int, Sequence[str]]  # streams that the clock ends before this offset is read, for whom it is due
    end: int
    letters: list[Letter] = field(default_factory=list)
    rows: list[Letter] = field(default_factory=list)
    committed: int | None = None
    store: dict[str, bytes] = field(default_factory=dict)
    saved: int = 0  # checkpoints so far: no key is used twice

    def write(self, batch: Batch) -> None:
        self.letters += batch.letters
        self.rows += batch.rows
        self.committed = batch.offset

    def table(self) -> Table:
        table = Table()
        for row in self.rows:
            assert row.key is not None
            table.apply(row.key, row.value)
        return table

    def finals(self) -> dict[str, list[tuple[Final, Headers]]]:
        """Each stream's events and their headers, in order; a stream id used again is another stream."""
        found: dict[str, list[tuple[Final, Headers]]] = {}
        for letter in self.letters:
            if letter.topic == KAFKA.final_topic:
                assert letter.value is not None
                event = decode_final(letter.value)
                assert letter.key == event.head.stream.encode()
                stream = event.head.id.rpartition("/")[0]
                found.setdefault(stream, []).append((event, letter.headers))
        return found

    def rejects(self) -> list[tuple[int, bytes | None, bytes | None]]:
        """Offset, key and value of each, by offset."""
        topic = Topics().rejected
        found = [(int(dict(x.headers)["offset"]), x.key, x.value) for x in self.letters if x.topic == topic]
        return sorted(found, key=lambda reject: reject[0])


class OutOfRange(Exception):
    """The record to be read is no longer kept."""


class Worker:
    """One life of a worker that owns the partition, from its restore on. It dies by being forgotten."""

    def __init__(self, world: World, slots: int = 2, first: int = 0, stream: StreamSettings = STREAM) -> None:
        self.world = world
        self.metrics = Metrics()
        self.scheduler = Scheduler(GEOMETRY, slots, slots, 4)
        self._arrived: deque[tuple[Any, ...]] = deque()  # on their way from the model's thread to the loop
        self._runner = Runner(
            Speaking(slots),
            self.scheduler,
            deliver=lambda done: self._arrived.append(("done", done)),
            fail=lambda error: None,
            captured=lambda feed, slot: self._arrived.append(("captured", feed, slot)),
        )
        self._captures = 0
        self._copied: deque[tuple[LiveStream, Checkpoint]] = deque()
        self._pending: Batch | None = None
        deployment = Deployment(stream, MODES[1], INFO, self.scheduler)
        self._deployment = deployment
        table = world.table()
        self.checkpoints = self._fetch(table)
        # as worker.ingest.assignment does it
        needed = [row.resumes if key in self.checkpoints else row.begins for key, row in table.live.items()]
        resume = max(first, min([max(table.read or 0, world.committed or 0, first), *needed]))
        partials = Partials(KAFKA.partial_topic, {}, 1000, self.metrics)
        self.partition = Partition(
            NUMBER,
            resume,
            table,
            self.checkpoints,
            deployment,
            Outbox(NUMBER, KAFKA.topics, partials),
            KAFKA,
            self.metrics,
        )

    def _fetch(self, table: Table) -> dict[bytes, Checkpoint]:
        found = {}
        for row in table.live.values():
            data = self.world.store.get(row.checkpoint.key) if row.checkpoint else None
            if data is not None:
                checkpoint = decode(data, FINGERPRINT)
                try_out(row, checkpoint, self._deployment)
                found[self._key(row)] = checkpoint
        return found

    @staticmethod
    def _key(row: TableRow) -> bytes:
        return row_key(row.stream, NUMBER, row.first_offset)

    @property
    def _open(self) -> list[LiveStream]:
        return sorted(self.partition.live, key=lambda live: live.row.stream)

    def read(self) -> bool:
        """The next record, with what the clock decides before it; False at the end of the log."""
        offset = self.partition.next_offset
        for name in self.world.idle.get(offset, ()):
            for live in self.partition.live:
                if live.row.stream == name:
                    live.touched -= 1000
        self.partition.end_idle_streams()
        if offset >= self.world.end:
            return False
        if offset not in self.world.log:
            raise OutOfRange
        self.partition.accept(*self.world.log[offset], offset, 10_000 + offset)
        return True

    def step(self) -> bool:
        """What the model's thread does in one turn; False if there is nothing to do."""
        if not self.scheduler.occupancy().ready and not self._captures:
            return False
        batch = self.scheduler.take()
        assert batch is not None
        self._captures -= batch.capture is not None
        done = self._runner._step(batch)
        if batch.work:
            self._arrived.append(("done", done))
        self.scheduler.done(batch)
        return True

    def arrive(self) -> bool:
        """The loop takes the next result of the model's thread."""
        if not self._arrived:
            return False
        kind, *rest = self._arrived.popleft()
        if kind == "done":
            self._heard(*rest)
        else:
            self._captured(*rest)
        return True

    def capture(self, index: int) -> None:
        """Ask for a checkpoint of a live stream."""
        open_streams = self._open
        if open_streams and self.scheduler.capture(open_streams[index % len(open_streams)].feed):
            self._captures += 1

    def save(self) -> None:
        """The oldest copy becomes durable."""
        if self._copied:
            live, checkpoint = self._copied.popleft()
            self.world.saved += 1
            key = f"{checkpoint.stream}/{checkpoint.first_offset}/{checkpoint.offset}/{self.world.saved}"
            self.world.store[key] = encode(checkpoint, FINGERPRINT)
            live.saved(key, checkpoint.offset)

    def collect(self) -> None:
        if self._pending is None:
            self._pending = self.partition.collect()

    def commit(self) -> None:
        """A transaction takes place; a batch that was collected before, and aborted, is written first."""
        self.collect()
        batch, self._pending = self._pending, None
        if batch is not None:
            self.world.write(batch)
            named = {row.checkpoint.key for row in self.world.table().live.values() if row.checkpoint}
            assert not named & set(batch.superseded), "a checkpoint is given up that the table relies on"
            for key in batch.superseded:
                del self.world.store[key]

    def finish(self) -> None:
        """Read, compute and commit all there is."""
        while self.read() or self.step() or self.arrive():
            pass
        for _ in range(2):  # the second moves the offset past what the first published
            self.commit()

    def _heard(self, done: Done) -> None:
        for work, tokens in done.results:
            work.feed.owner.partition.heard(work.feed.owner, tokens, work.last)

    def _captured(self, feed: Feed, slot: SlotState | None) -> None:
        state = self.scheduler.captured(feed)
        if state is not None:
            live: LiveStream = feed.owner
            self._copied.append((live, live.snapshot(slot, state)))
