"""One stream of audio, from its start record to its end record, and a call of several such streams."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from aiokafka.errors import KafkaError
from numpy.typing import NDArray

from producer.client import DeliveryError, Producer
from producer.encode import encode
from wire.codec import encode_key, encode_record
from wire.records import BYTES_PER_SAMPLE, Audio, Encoding, End, Flush, Metadata, Options, Record, Start

log = logging.getLogger(__name__)

# A piece up to this long goes out as it came; a longer one would make its listener wait.
LONGEST_RECORD_S = 1.0
# For the end record of a call whose delivery has already failed.
LAST_TRY_S = 5.0

AudioData = bytes | bytearray | memoryview | NDArray[Any]


class _Sent(NamedTuple):
    position: int  # of the first sample that is lost if this record is
    deadline: float
    confirmed: asyncio.Future[Any]


class Call:
    """A stream of mono audio; an async context manager that sends *start* on entry and *end* on exit.

    stream_id: the Kafka key, one stream in the whole topic. sample_rate in Hz. call_id, channel, language
    and metadata come back with every transcript event. options: what this stream asks of the worker.
    record_ms: size of the records that a piece longer than a second is cut into.

    Leaving the context waits until Kafka has confirmed every record, and sends *end* also when the body
    failed; the body's exception goes on. Raises DeliveryError, naming the first position not confirmed, and
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
        self.position = 0  # samples sent so far
        self.sequence = 0  # audio records sent so far
        self._producer = producer
        self._key = encode_key(stream_id)
        self._width = BYTES_PER_SAMPLE[encoding]
        self._longest = int(LONGEST_RECORD_S * sample_rate) * self._width
        self._piece = max(1, record_ms * sample_rate // 1000) * self._width
        self._partition = 0
        self._sent: deque[_Sent] = deque()
        self._failure: DeliveryError | None = None
        self._open = False
        # One record after another, also when tasks share a call.
        self._turn = asyncio.Lock()

    @property
    def confirmed(self) -> int:
        """Samples from the start of the stream that Kafka has confirmed."""
        self._settle()
        return self._sent[0].position if self._sent else self.position

    async def send(self, audio: AudioData) -> None:
        """Send samples: bytes in the stream's encoding, or a mono int16 or float array, which is encoded.

        Waits while Kafka is slower than the caller. Raises ValueError for bytes that end inside a sample,
        DeliveryError when this or an earlier record is not confirmed in time.
        """
        payload = encode(audio, self.start.encoding) if isinstance(audio, np.ndarray) else bytes(audio)
        if len(payload) % self._width:
            raise ValueError(f"audio has {len(payload)} bytes; {self.start.encoding} takes a multiple of {self._width}")
        step = self._piece if len(payload) > self._longest else max(len(payload), 1)
        async with self._turn:
            self._check_open()
            for start in range(0, len(payload), step):
                piece = payload[start : start + step]
                await self._put(Audio(self.sequence, self.position, piece, self.start.nonce))
                self.sequence += 1
                self.position += len(piece) // self._width

    async def flush(self, id: str | None = None) -> str:
        """Ask for everything sent so far to be made final; a marker event answers with the id returned."""
        id = id or secrets.token_hex(8)
        async with self._turn:
            self._check_open()
            await self._put(Flush(id, self.start.nonce, self.position))
        return id

    async def __aenter__(self) -> Self:
        self._partition = self._producer.partition(self._key)
        await self._put(self.start)
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
            if error is not failure:
                error.add_note(str(failure))

    async def _end(self) -> None:
        async with self._turn:
            self._open = False
            end = End(self.start.nonce, self.position)
            try:
                await self._put(end)
            except DeliveryError:
                await self._last_try(end)
                raise
            wait = self._sent[-1].deadline - time.monotonic()
            await asyncio.wait(
                [sent.confirmed for sent in self._sent],
                timeout=max(wait, 0),
                return_when=asyncio.FIRST_EXCEPTION,
            )
            self._settle()
            if self._sent and not self._failure:
                self._fail(self._sent[0].position, f"no answer in {self._producer.delivery_timeout:g} s")
            if self._failure:
                raise self._failure

    async def _put(self, record: Record) -> None:
        """Queue a record behind the ones before it."""
        self._settle()
        if self._failure:
            raise self._failure
        deadline = time.monotonic() + self._producer.delivery_timeout
        try:
            confirmed = await self._producer.send(self._key, self._partition, encode_record(record))
        except (KafkaError, TimeoutError) as error:
            self._settle()
            first = self._sent[0].position if self._sent else self.position
            reason = f"no room in {self._producer.delivery_timeout:g} s" if not str(error) else str(error)
            raise self._fail(first, reason) from error
        self._sent.append(_Sent(self.position, deadline, asyncio.ensure_future(confirmed)))

    async def _last_try(self, end: End) -> None:
        """Records are lost, but a worker that gets this need not wait for more."""
        try:
            async with asyncio.timeout(LAST_TRY_S):
                await (await self._producer.send(self._key, self._partition, encode_record(end)))
        except (KafkaError, TimeoutError):
            pass

    def _settle(self) -> None:
        """Forget records that are confirmed; notice the first that failed or is overdue."""
        while self._sent and self._sent[0].confirmed.done():
            position, _, confirmed = self._sent.popleft()
            error = confirmed.exception()
            if error is not None:
                self._fail(position, f"{type(error).__name__}: {error}")
        if self._sent and self._sent[0].deadline < time.monotonic():
            self._fail(self._sent[0].position, f"no answer in {self._producer.delivery_timeout:g} s")

    def _fail(self, position: int, reason: str) -> DeliveryError:
        if self._failure is None:
            self._failure = DeliveryError(self.stream_id, position, self.start.sample_rate, reason)
        return self._failure

    def _check_open(self) -> None:
        if not self._open:
            raise RuntimeError(f"call {self.stream_id} is not open: use it in `async with`")


def channels(call_id: str, count: int) -> list[str]:
    """The stream ids of a call: `<call>/0`, `<call>/1`, ...; a call of one channel is its own stream."""
    return [call_id] if count == 1 else [f"{call_id}/{index}" for index in range(count)]


class StereoCall:
    """A call of several channels, each a stream of its own, which share the call id.

    channel_names: one a channel; their number is that of the channels. Further keyword arguments are those of
    `Call`.
    """

    def __init__(
        self,
        producer: Producer,
        call_id: str,
        channel_names: Sequence[str | None] = ("0", "1"),
        **call: Any,
    ) -> None:
        self.call_id = call_id
        self.calls = [
            Call(producer, stream_id, call_id=call_id, channel=name, **call)
            for stream_id, name in zip(channels(call_id, len(channel_names)), channel_names, strict=True)
        ]
        self._stack = AsyncExitStack()

    async def send(self, frames: NDArray[Any]) -> None:
        """Send int16 or float samples [n, channels]. Raises ValueError for another number of channels."""
        if frames.ndim != 2 or frames.shape[1] != len(self.calls):
            raise ValueError(f"audio must have shape [n, {len(self.calls)}], found {list(frames.shape)}")
        for index, call in enumerate(self.calls):
            await call.send(np.ascontiguousarray(frames[:, index]))

    async def flush(self, id: str | None = None) -> str:
        """Flush every channel with one id."""
        id = id or secrets.token_hex(8)
        for call in self.calls:
            await call.flush(id)
        return id

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for call in self.calls:
                await stack.enter_async_context(call)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)
