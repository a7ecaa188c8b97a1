"""What the checkpointer knows of a live stream."""

from typing import Protocol

from worker.batching.feed import Feed, FeedState
from worker.engine.interface import SlotState
from worker.state.checkpoint import Checkpoint


class Numbered(Protocol):
    @property
    def number(self) -> int: ...


class Subject(Protocol):
    """A live stream, from its first record until its last event is told."""

    feed: Feed

    @property
    def partition(self) -> Numbered: ...

    @property
    def replay_ms(self) -> int:
        """Stream time heard since what a restart would resume from."""

    @property
    def unsaved(self) -> bool:
        """Whether audio was received since then, heard or not."""

    def snapshot(self, slot: SlotState | None, feed: FeedState) -> Checkpoint:
        """All of the stream as of now; called on the loop, at once."""

    def saved(self, key: str, offset: int) -> None:
        """The last snapshot is durable."""
