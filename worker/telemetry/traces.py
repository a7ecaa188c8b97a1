"""Which event came of which record's trace: events rest on input offsets, and so do traces.

A record with a `traceparent` is remembered by its offset. An event whose last record is remembered becomes a span below
the record's, from the moment it was read until the event was decided, and carries that span on in its own header.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from producer.tracing import Headers, Tracer
from wire.events import Head
from wire.topics import HEADER_TRACE

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

REMEMBERED = 10_000  # records with a trace that no event came of yet


class Traces:
    """All partitions' traces."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self._tracer = Tracer(provider)
        self._records: OrderedDict[tuple[int, int], tuple[bytes, int]] = OrderedDict()

    def received(self, partition: int, offset: int, headers: Iterable[tuple[str, bytes]]) -> None:
        """A record was read; to be called before it is heard."""
        for name, value in headers:
            if name == HEADER_TRACE:
                self._records[partition, offset] = value, time.time_ns()
                if len(self._records) > REMEMBERED:
                    self._records.popitem(last=False)
                return

    def told(self, partition: int, kind: str, head: Head) -> Headers:
        """An event was decided; returns its headers. Several may rest on one record."""
        found = self._records.get((partition, head.offsets[1]))
        if found is None:
            return []
        attributes = {
            "messaging.system": "kafka",
            "messaging.destination.partition.id": str(partition),
            "messaging.kafka.offset": head.offsets[1],
            "trunkline.stream": head.stream,
            "trunkline.event": head.id,
            "trunkline.model": head.model,
        }
        span = self._tracer.begin(f"transcribe {kind}", attributes, parent=found[0], start_ns=found[1])
        span.end()
        return self._tracer.headers(span)

    def stop(self) -> None:
        """Send what is waiting; takes as long as the exporter's own deadline at most."""
        self._provider.shutdown()
