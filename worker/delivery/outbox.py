"""One partition's events and rejected records, from the moment they are decided until a batch takes them."""

import asyncio
from collections.abc import Sequence

from wire.codec import encode_final, encode_key, encode_rejected
from wire.events import Partial, Rejected, Utterance
from wire.topics import HEADER_INPUT_TIMESTAMP, HEADER_OFFSET, HEADER_PARTITION, HEADER_TOPIC, Topics
from worker.delivery.ledger import Letter
from worker.delivery.partials import Partials
from worker.telemetry.logs import about, transcripts
from worker.telemetry.traces import Traces
from worker.transcript.transcriber import Told


class Outbox:
    """Keeps finals and rejects in the order told; hands partials on at once. `wanted` is set while it holds any."""

    def __init__(self, partition: int, topics: Topics, partials: Partials, traces: Traces | None = None) -> None:
        self.wanted = asyncio.Event()
        self._partition = partition
        self._topics = topics
        self._partials = partials
        self._traces = traces
        self._letters: list[Letter] = []
        self._queued = 0  # bytes
        self._taken = 0

    def __len__(self) -> int:
        return len(self._letters)

    @property
    def size(self) -> int:
        """Bytes of values not known to be published: those waiting, and those of the batch taken last."""
        return self._queued + self._taken

    def told(self, stream: str, items: Sequence[Told]) -> None:
        for item in items:
            traced = self._traces.told(self._partition, _kind(item), item.event.head) if self._traces else []
            if isinstance(item.event, Partial):
                self._partials.tell(self._partition, stream, item.event, item.timestamp, traced)
                continue
            self._partials.forget(stream)
            if isinstance(item.event, Utterance):
                transcripts.info("%s", item.event.text, extra=about(self._partition, stream))
            headers = [(HEADER_INPUT_TIMESTAMP, b"%d" % item.timestamp), *traced]
            value = encode_final(item.event)
            self._put(Letter(self._topics.final, encode_key(stream), value, headers, item.timestamp, item.spoken))

    def rejected(self, key: bytes | None, offset: int, rejected: Rejected) -> None:
        headers = [
            (HEADER_TOPIC, self._topics.audio.encode()),
            (HEADER_PARTITION, b"%d" % self._partition),
            (HEADER_OFFSET, b"%d" % offset),
        ]
        self._put(Letter(self._topics.rejected, key, encode_rejected(rejected), headers))

    def take(self) -> list[Letter]:
        """All that is waiting; the outbox is empty then."""
        letters, self._letters = self._letters, []
        self._taken, self._queued = self._queued, 0
        self.wanted.clear()
        return letters

    def published(self) -> None:
        """What was taken last is on the brokers."""
        self._taken = 0

    def _put(self, letter: Letter) -> None:
        self._letters.append(letter)
        self._queued += len(letter.value or b"")
        self.wanted.set()


def _kind(item: Told) -> str:
    return type(item.event).__name__.lower()
