"""A call of several streams, one for each channel."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from producer.call import Call
from producer.client import DeliveryError, Producer


def channels(call_id: str, count: int) -> list[str]:
    """The stream ids of a call: `<call>/0`, `<call>/1`, ...; a call of one channel is its own stream."""
    return [call_id] if count == 1 else [f"{call_id}/{index}" for index in range(count)]


class StereoCall:
    """A call of several channels, each a stream of its own, which share the call id.

    channel_names: one a channel; their number is that of the channels. Further keyword arguments are those of
    `Call`. Leaving the context ends all channels at once; a DeliveryError of one carries those of the others as notes.
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

    async def send(self, frames: NDArray[Any] | Sequence[bytes]) -> bool:
        """Send int16 or float samples [n, channels], or a payload for each channel.

        False if some of it was dropped. Raises ValueError for another number of channels, and what `Call.send` raises.
        """
        if isinstance(frames, np.ndarray):
            if frames.ndim != 2 or frames.shape[1] != len(self.calls):
                raise ValueError(f"audio must have shape [n, {len(self.calls)}], found {list(frames.shape)}")
            sent = [await call.send(np.ascontiguousarray(frames[:, index])) for index, call in enumerate(self.calls)]
        else:
            sent = [await call.send(payload) for call, payload in zip(self.calls, frames, strict=True)]
        return all(sent)

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
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Together, since each may have to wait for its deadline.
        ends = [asyncio.ensure_future(call.__aexit__(kind, error, trace)) for call in self.calls]
        try:
            await asyncio.wait(ends)
        except asyncio.CancelledError:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            raise
        failures = [failure for end in ends if (failure := end.exception()) is not None]
        if failures:
            first, *others = failures
            for other in others:
                if isinstance(other, DeliveryError):
                    first.add_note(str(other))
            raise first
