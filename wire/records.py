"""What a producer writes to the audio topic: start, audio, flush, end.

One record is one MessagePack map; the stream id is the Kafka key. The wire name of a field is its name here.
Checks happen in `wire.codec`, not on construction.
"""

from dataclasses import dataclass, field
from typing import Literal

Encoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]
ENCODINGS: tuple[Encoding, ...] = ("pcm_s16le", "pcm_f32le", "mulaw", "alaw")
BYTES_PER_SAMPLE: dict[Encoding, int] = {"pcm_s16le": 2, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

Decoder = Literal["rnnt", "ctc"]
DECODERS: tuple[Decoder, ...] = ("rnnt", "ctc")

Scalar = str | int | float | bool | None
Metadata = dict[str, Scalar]


@dataclass(frozen=True, slots=True)
class Options:
    """What one stream asks for. None means the deployment's default.

    look_ahead: encoder frames of right context. endpoint_ms: silence that ends an utterance.
    max_utterance_ms: longest utterance. idle_ms: time without a record after which the stream is ended.
    partials: whether partial events are wanted.
    """

    look_ahead: int | None = None
    endpoint_ms: int | None = None
    max_utterance_ms: int | None = None
    idle_ms: int | None = None
    decoder: Decoder | None = None
    partials: bool | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Begins a stream. `nonce` is new for every start; `sample_rate` in Hz. Mono.

    `nonce`, `encoding` and `sample_rate` are required on the wire; the defaults serve Python producers only.
    """

    nonce: str
    encoding: Encoding = "pcm_s16le"
    sample_rate: int = 8000
    language: str | None = None
    call_id: str | None = None
    channel: str | None = None
    metadata: Metadata = field(default_factory=dict)
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class Audio:
    """A piece of audio.

    sequence: 0 for the stream's first audio record, then one more each. position: index in the stream of the
    payload's first sample. payload: samples in the start's encoding, 1 byte to 1 MiB.
    """

    sequence: int
    position: int
    payload: bytes
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Flush:
    """Asks for everything heard so far to be made final; a marker event carries `id` back.

    position: samples sent so far, which shows the worker a missing tail.
    """

    id: str
    nonce: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """The stream is complete. position: samples sent in all, which shows the worker a missing tail."""

    nonce: str | None = None
    position: int | None = None


Record = Start | Audio | Flush | End
