"""One stream of audio, from its start record to its end record."""

from __future__ import annotations

import asyncio
import logging
import secrets
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from producer.client import DeliveryError, Producer
from producer.encode import encode
from wire.codec import encode_key, encode_record
from wire.records import BYTES_PER_SAMPLE, Audio, Encoding, End, Flush, Metadata, Options, Record, Start

log = logging.getLogger(__name__)

# A piece up to this long goes out as it came; a longer one would make its listener wait.
LONGEST_RECORD_S = 1.0
# For the end record of a call whose delivery has already failed.
LAST_TRY_S = 2.0
# With room in the queue nothing in `send` waits; a caller in a tight loop must still let others run.
YIELD_RECORDS = 32

AudioData = bytes | bytearray | memoryview | NDArray[Any]
WhenFull = Literal["wait", "drop"]


class Call:
    """A stream of mono audio; an async context manager that sends *start* on entry and *end* on exit.

    stream_id: the Kafka key, one stream in the whole topic. sample_rate in Hz. call_id, channel, language
    and metadata come back with every transcript event. options: what this stream asks of the worker.
    record_ms: size of the records that a piece longer than a second is cut into. when_full: what `send` does while
    the producer's queue is full: `wait`, or `drop` the piece, which readers of the transcript see as a *gap*; for a
    live source that cannot wait. dropped: samples dropped so.

    Leaving the context waits until Kafka has confirmed every record, and sends *end* also when the body
    failed; the body's exception goes on. Raises DeliveryError, naming the audio not confirmed, and
    WireError for values that the contract does not allow.
    """

    def __init__(
        self,
        producer: Producer,
        stream_id: str,
        *,
        encoding: Encoding = "pcm_s16le",
        sample_rate: int = 8000,
        language: str | None = None,
        call_id: str | None = None,
        channel: str | None = None,
        metadata: Metadata | None = None,
        options: Options | None = None,
        record_ms: int = 100,
        when_full: WhenFull = "wait",
    ) -> None:
        self.stream_id = stream_id
        self.start = Start(
            nonce=secrets.token_hex(8),
            encoding=encoding,
            sample_rate=sample_rate,
            language=language,
            call_id=call_id,
            channel=channel,
            metadata=dict(metadata or {}),
            options=options or Options(),
        )
        self.position = 0  # samples sent or dropped so far
        self.sequence = 0  # audio records sent so far
        self.dropped = 0
        self._producer = producer
        self._key = encode_key(stream_id)
        self._width = BYTES_PER_SAMPLE[encoding]
        self._longest = int(LONGEST_RECORD_S * sample_rate) * self._width
        self._piece = max(1, record_ms * sample_rate // 1000) * self._width
        self._drops = when_full == "drop"
        self._partition = 0
        self._receipt = _Receipt()
        self._open = False
        # One record after another, also when tasks share a call.
        self._turn = asyncio.Lock()

    @property
    def confirmed(self) -> int:
        """Samples from the start of the stream that Kafka has confirmed."""
        return self._receipt.position

    async def send(self, audio: AudioData) -> bool:
        """Send samples: bytes in the stream's encoding, or a mono int16 or float array, which is encoded.

        Waits while the producer's queue is full, or drops: False if some of it was dropped. Raises ValueError for
        bytes that end inside a sample and for floats that are not finite, DeliveryError when this or an earlier
        record is not confirmed in time.
        """
        payload = encode(audio, self.start.encoding) if isinstance(audio, np.ndarray) else bytes(audio)
        if len(payload) % self._width:
            raise ValueError(f"audio has {len(payload)} bytes; {self.start.encoding} takes a multiple of {self._width}")
        before = self.dropped
        async with self._turn:
            if len(payload) <= self._longest:
                if payload:
                    await self._send(payload)
            else:
                for start in range(0, len(payload), self._piece):
                    await self._send(payload[start : start + self._piece])
        return self.dropped == before

    async def flush(self, id: str | None = None) -> str:
        """Ask for everything sent so far to be made final; a marker event answers with the id returned."""
        id = id or secrets.token_hex(8)
        async with self._turn:
            self._check_open()
            if not self._drops:
                await self._room()
            self._put(Flush(id, self.start.nonce, self.position))
        return id

    async def __aenter__(self) -> Self:
        self._partition = self._producer.partition(self._key)
        self._put(self.start)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending = asyncio.ensure_future(self._end())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            # Cancelled while ending: the end record matters more, and it has its own deadline.
            await asyncio.wait([ending])
            if not ending.cancelled() and (failure := ending.exception()):
                log.error("%s", failure)
            raise
        except DeliveryError as failure:
            if error is None:
                raise
            if not (isinstance(error, DeliveryError) and error.stream_id == self.stream_id):
                error.add_note(str(failure))

    async def _send(self, payload: bytes) -> None:
        """One audio record, or a hole in its place."""
        self._check_open()
        samples = len(payload) // self._width
        if not self._producer.has_room():
            if self._drops:
                self._drop(samples)
                return
            await self._room()
        self._put(Audio(self.sequence, self.position, payload, self.start.nonce), samples)
        self.sequence += 1
        self.position += samples
        if self.sequence % YIELD_RECORDS == 0:
            await asyncio.sleep(0)

    async def _room(self) -> None:
        """Wait until the queue takes more; at the deadline the call has failed."""
        try:
            await self._producer.room()
        except TimeoutError:
            self._receipt.fail(self._receipt.position, f"no room in {self._producer.delivery_timeout:g} s")

    def _drop(self, samples: int) -> None:
        """Positions run on and the sequence does not: so the worker knows at once that this will not come."""
        if self._receipt.failure:
            raise self._failed()
        if not self.dropped:
            log.warning(
                "call %s: the queue is full; audio is dropped from %.3f s on",
                self.stream_id,
                self.position / self.start.sample_rate,
            )
        self.dropped += samples
        self.position += samples

    def _put(self, record: Record, samples: int = 0) -> None:
        """Queue a record behind the ones before it."""
        if self._receipt.failure:
            raise self._failed()
        value = encode_record(record)
        self._receipt.open += 1
        self._producer.put(self._partition, self._receipt, self._key, value, self.position, self.position + samples)

    async def _end(self) -> None:
        async with self._turn:
            self._open = False
            end = End(self.start.nonce, self.position)
            if self._receipt.failure:
                await self._last_try(end)
            else:
                self._put(end)
                await self._receipt.complete()
            if self._receipt.failure:
                raise self._failed()

    async def _last_try(self, end: End) -> None:
        """Records are not confirmed, but a worker that gets this need not wait for more."""
        receipt = _Receipt()
        receipt.open = 1
        self._producer.put(self._partition, receipt, self._key, encode_record(end), self.position, self.position)
        try:
            async with asyncio.timeout(LAST_TRY_S):
                await receipt.complete()
        except TimeoutError:
            pass

    def _failed(self) -> DeliveryError:
        assert self._receipt.failure is not None
        position, reason = self._receipt.failure
        return DeliveryError(self.stream_id, position, self.position, self.start.sample_rate, reason)

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError(f"call {self.stream_id} is not open: use it in `async with`")


class _Receipt:
    """What became of a stream's records. open: records that are still under way."""

    def __init__(self) -> None:
        self.open = 0
        self.position = 0  # samples confirmed from the stream's start
        self.failure: tuple[int, str] | None = None  # first position not confirmed, and why
        self._done: asyncio.Future[None] | None = None

    def confirmed(self, end: int) -> None:
        self.open -= 1
        if self.failure is None:
            self.position = end
        self._wake()

    def lost(self, position: int, reason: str) -> None:
        self.open -= 1
        self.fail(position, reason)

    def fail(self, position: int, reason: str) -> None:
        if self.failure is None:
            self.failure = position, reason
        self._wake()

    async def complete(self) -> None:
        """Return when every record is confirmed, or one is lost."""
        if self.open and self.failure is None:
            self._done = asyncio.get_running_loop().create_future()
            await self._done

    def _wake(self) -> None:
        if self._done is not None and not self._done.done() and (not self.open or self.failure):
            self._done.set_result(None)
