"""Audio topics as producers fill them: several streams with restarts, flushes, losses, disorder and bad records."""

from dataclasses import dataclass, field

import numpy as np

from tests.delivery.world import World
from wire import Audio, End, Flush, Options, Record, Start, encode_record

NAMES = ("s", "t", "u")
KINDS = (
    *["audio"] * 6,
    *["start", "start again", "loss", "long loss", "swapped", "twice", "resent", "flush", "end", "idle"],
    *["foreign", "odd", "bytes", "refused start", "bare", "old nonce", "no key"],
)
# What a producer sends that does all right, in disorder or not.
OWN = ("start", "audio", "loss", "long loss", "swapped", "twice", "flush", "end")
_NOISE = np.random.default_rng(1).integers(-9000, 9000, 400_000).astype("<i2")


@dataclass
class _Talker:
    """The producer of one stream id; `nonce` None until its first start."""

    name: str
    nonce: str | None = None
    starts: int = 0
    sequence: int = 0
    position: int = 0
    rate: int = 16000
    sent: list[Record | bytes] = field(default_factory=list)

    def records(self, kind: str, samples: int) -> list[Record | bytes]:
        """What one deed puts on the topic."""
        if kind == "resent":  # as a producer does that knows not what arrived: its last batch
            return list(self.sent[-(samples % 6 + 1) :])
        made = self._new(kind, samples)
        if kind == "start":
            self.sent.clear()
        if kind in OWN:
            self.sent += made
        return made

    def _new(self, kind: str, samples: int) -> list[Record | bytes]:
        if kind == "start":
            self.starts += 1
            self.nonce, self.sequence, self.position, self.rate = f"{self.name}{self.starts}", 0, 0, 16000
            if samples % 2:
                self.rate = 8000
            options = Options(max_utterance_ms=400, look_ahead=0) if self.starts % 2 else Options()
            return [Start(self.nonce, "pcm_s16le", self.rate, metadata={"n": self.starts}, options=options)]
        if kind == "start again":
            return [Start(self.nonce or "x", "pcm_s16le", self.rate)]
        if kind == "refused start":
            return [Start("refused", "pcm_s16le", options=Options(look_ahead=5))]
        if kind == "flush":
            return [Flush(f"f{samples}", self.nonce, self.position if samples % 2 else None)]
        if kind == "end":
            return [End(self.nonce, self.position + (700 if samples % 2 else 0))]
        if kind == "foreign":
            return [Audio(self.sequence, self.position, b"\1\2" * samples, "foreign")]
        if kind == "odd":
            return [Audio(self.sequence, self.position, b"odd", self.nonce)]
        if kind == "bytes":
            return [b"\xc1garbage"]
        if kind == "bare":
            return [self._audio(samples, None)]
        if kind == "old nonce":
            return [Audio(self.sequence, self.position, b"\1\2" * samples, f"{self.name}{self.starts - 1}")]
        if kind == "loss":
            self.sequence, self.position = self.sequence + 1, self.position + 800
        if kind == "long loss":
            self.sequence, self.position = self.sequence + 1, self.position + 8000
        audio: list[Record | bytes] = [self._audio(samples, self.nonce)]
        if kind == "swapped":
            audio.insert(0, self._audio(samples, self.nonce))
        return audio * 2 if kind == "twice" else audio

    def _audio(self, samples: int, nonce: str | None) -> Audio:
        at = (hash_of(self.name, self.starts) + self.position) % 300_000
        record = Audio(self.sequence, self.position, _NOISE[at : at + samples].tobytes(), nonce)
        self.sequence += 1
        self.position += samples
        return record


def hash_of(name: str, starts: int) -> int:
    return ord(name[0]) * 1009 + starts * 5003


def world(deeds: list[tuple[str, str, int]], first: int = 0) -> World:
    """The topic after these deeds (stream, kind, samples). At its end the clock ends all streams that are left.

    Then every producer says its start again, and some audio: what remembers the streams that have ended answers.
    """
    deeds = [*deeds, *((name, kind, 500) for kind in ("idle", "start again", "audio", "idle") for name in NAMES)]
    talkers = {name: _Talker(name) for name in NAMES}
    log: dict[int, tuple[bytes | None, bytes | None]] = {}
    idle: dict[int, list[str]] = {}
    offset = first
    for name, kind, samples in deeds:
        if kind == "idle":
            idle.setdefault(offset, []).append(name)
            continue
        for record in talkers[name].records("audio" if kind == "no key" else kind, samples):
            value = record if isinstance(record, bytes) else encode_record(record)
            log[offset] = (None if kind == "no key" else name.encode(), value)
            offset += 1
    return World(log, idle, offset)
