"""Audio in: demo calls as records, sent by librdkafka in any order and form, or by the producer library at a pace."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import numpy as np
import soundfile
from confluent_kafka import Message
from confluent_kafka import Producer as Client
from numpy.typing import NDArray

from producer import Call, Producer
from producer.encode import encode
from tests.integration.support import CALLS
from wire import Audio, Encoding, End, Options, Record, Start, encode_record

PCM = NDArray[np.int16]


def spoken(call: str, channel: int) -> tuple[PCM, int]:
    """One channel of a demo call as 16-bit samples, and its sample rate."""
    samples, rate = soundfile.read(CALLS / f"{call}.flac", dtype="int16", always_2d=True)
    return np.ascontiguousarray(samples[:, channel]), int(rate)


def start(rate: int, encoding: Encoding = "pcm_s16le", options: Options | None = None, nonce: str = "one") -> Start:
    return Start(nonce=nonce, encoding=encoding, sample_rate=rate, options=options or Options())


def audio(
    samples: PCM,
    rate: int,
    encoding: Encoding = "pcm_s16le",
    first: int = 0,
    sequence: int = 0,
    ms: int = 100,
    nonce: str = "one",
) -> list[Audio]:
    """Audio records of `ms` each; the first has this position and sequence number."""
    size = rate * ms // 1000
    pieces = range(0, len(samples), size)
    return [
        Audio(sequence + index, first + at, encode(samples[at : at + size], encoding), nonce)
        for index, at in enumerate(pieces)
    ]


def stream_of(
    samples: PCM, rate: int, encoding: Encoding = "pcm_s16le", options: Options | None = None
) -> list[Record]:
    """A whole stream: start, audio, end."""
    middle = audio(samples, rate, encoding)
    return list(chain([start(rate, encoding, options)], middle, [End("one", len(samples))]))


async def talk(
    servers: str,
    topic: str,
    streams: Mapping[str, tuple[PCM, int]],
    speed: float,
    at_half: Callable[[], object],
) -> None:
    """All streams at once through the producer library; at the half of each, `at_half` runs and all wait for it."""
    clock = asyncio.get_running_loop().time
    reached = asyncio.Barrier(len(streams) + 1)

    async def say(call: Call, samples: PCM, rate: int) -> None:
        began, size = clock(), rate // 10
        for at in range(0, len(samples), size):
            await call.send(samples[at : at + size])
            await asyncio.sleep(began + (at + size) / rate / speed - clock())

    async def one(call: Call, samples: PCM, rate: int) -> None:
        half = len(samples) // 2
        async with call:
            await say(call, samples[:half], rate)
            await reached.wait()
            await reached.wait()
            await say(call, samples[half:], rate)

    async with Producer(servers, topic=topic) as producer, asyncio.TaskGroup() as group:
        for stream, (samples, rate) in streams.items():
            group.create_task(one(Call(producer, stream, sample_rate=rate), samples, rate))
        await reached.wait()
        await asyncio.to_thread(at_half)
        await reached.wait()


class Sender:
    """Puts any record or bytes on the audio topic, each partition's in order."""

    def __init__(self, servers: str, topic: str, compression: str = "none", max_bytes: int = 4_000_000) -> None:
        self.topic = topic
        self._client = Client(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "linger.ms": 50 if compression != "none" else 1,  # several records in a batch
                "compression.type": compression,
                "message.max.bytes": max_bytes,
                "partitioner": "murmur2_random",
                "log_level": 2,  # a broker that is away shows by what does not come
            }
        )

    def send(
        self,
        stream: str | bytes | None,
        records: Sequence[Record | bytes | None],
        partition: int | None = None,
        time: int = 0,
    ) -> list[tuple[int, int]]:
        """Return partition and offset of each record once all are on the broker. `time`: the producer's clock, ms;
        0 for this machine's."""
        places: dict[int, tuple[int, int]] = {}

        def delivered(index: int) -> Callable[[object, Message], None]:
            def note(error: object, message: Message) -> None:
                assert error is None, error
                places[index] = (message.partition(), message.offset())

            return note

        where = {"timestamp": time} if partition is None else {"timestamp": time, "partition": partition}
        for index, record in enumerate(records):
            value = record if record is None or isinstance(record, bytes) else encode_record(record)
            self._client.produce(self.topic, value, key=stream, on_delivery=delivered(index), **where)
            self._client.poll(0)
        assert self._client.flush(30) == 0
        return [places[index] for index in range(len(records))]

    def put(
        self, stream: str | bytes | None, records: Sequence[Record | bytes | None], partition: int | None = None
    ) -> None:
        """Send without waiting; `flush` does. Where a record went is not said."""
        where = {} if partition is None else {"partition": partition}
        for record in records:
            value = record if record is None or isinstance(record, bytes) else encode_record(record)
            self._client.produce(self.topic, value, key=stream, on_delivery=_arrived, **where)
        self._client.poll(0)

    def flush(self) -> None:
        assert self._client.flush(60) == 0

    def close(self) -> None:
        self._client.close()


def _arrived(error: object, message: Message) -> None:
    assert error is None, error
