"""All of one stream's state at one moment, as bytes and back.

    "TLCP" | version (1 byte) | SHA-256 of the rest (32 bytes) | msgpack map

Tensors travel as dtype, shape and raw bytes. A checkpoint is of use only to a worker with the same weights and the
same layout of engine state, and only if it is whole; anything else is refused, and the stream is replayed.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgpack

from worker.batching.feed import FeedState
from worker.engine.interface import Mode, SlotState

MAGIC = b"TLCP"
# One up with every change of what is in here, `host` included.
VERSION = 1
_DIGEST = hashlib.sha256
_HEAD = len(MAGIC) + 1 + _DIGEST().digest_size


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The stream that began with the record at `first_offset`; all its records before `offset` are reflected.

    host: session, segments and transcriber as plain values. slot: the engine's state, None if it holds nothing yet.
    feed: audio that the engine has not taken.
    """

    stream: str
    first_offset: int
    offset: int
    host: dict[str, Any]
    slot: SlotState | None
    feed: FeedState


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a checkpoint must fit: the model's weights and configuration, and the layout of the engine's state."""

    model: str
    layout: str


class CheckpointError(ValueError):
    """These bytes are not a checkpoint that can be used here; the text says why."""


def encode(checkpoint: Checkpoint, fingerprint: Fingerprint) -> bytes:
    slot, feed = checkpoint.slot, checkpoint.feed
    body = msgpack.packb(
        {
            "model": fingerprint.model,
            "layout": fingerprint.layout,
            "stream": checkpoint.stream,
            "first_offset": checkpoint.first_offset,
            "offset": checkpoint.offset,
            "host": checkpoint.host,
            "slot": None if slot is None else _pack_slot(slot),
            "feed": {"mode": _pack_mode(feed.mode), "runs": feed.runs, "ending": feed.ending},
        }
    )
    return b"".join((MAGIC, bytes([VERSION]), _DIGEST(body).digest(), body))


def decode(data: bytes, fingerprint: Fingerprint) -> Checkpoint:
    """Raises CheckpointError, and nothing else, for anything that `encode` with this fingerprint has not made."""
    if len(data) < _HEAD or data[: len(MAGIC)] != MAGIC:
        raise CheckpointError("this is no checkpoint")
    version = data[len(MAGIC)]
    if version != VERSION:
        raise CheckpointError(f"the checkpoint has format {version}, this worker reads {VERSION}")
    body = memoryview(data)[_HEAD:]
    if _DIGEST(body).digest() != data[len(MAGIC) + 1 : _HEAD]:
        raise CheckpointError("the checksum is wrong: the checkpoint is damaged or cut off")
    try:
        found = msgpack.unpackb(body)
        made_for = Fingerprint(found["model"], found["layout"])
    except Exception as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error!r}") from error
    if made_for.model != fingerprint.model:
        raise CheckpointError(f"the checkpoint is of model {made_for.model}, this worker runs {fingerprint.model}")
    if made_for.layout != fingerprint.layout:
        raise CheckpointError(
            f"the checkpoint's engine state has layout {made_for.layout}, this worker's has {fingerprint.layout}"
        )
    try:
        return Checkpoint(
            stream=_is(found["stream"], str),
            first_offset=_is(found["first_offset"], int),
            offset=_is(found["offset"], int),
            host=_is(found["host"], dict),
            slot=None if found["slot"] is None else _slot(found["slot"]),
            feed=_feed(found["feed"]),
        )
    except Exception as error:
        raise CheckpointError(f"the checkpoint cannot be read: {error!r}") from error


def _is(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _pack_mode(mode: Mode) -> list[Any]:
    return [mode.look_ahead, mode.decoder]


def _mode(packed: Any) -> Mode:
    look_ahead, decoder = packed
    return Mode(_is(look_ahead, int), _is(decoder, str))


def _pack_slot(slot: SlotState) -> dict[str, Any]:
    from worker.state.tensors import pack  # here, so that what only knows of checkpoints needs no torch

    tensors = {name: pack(tensor) for name, tensor in slot.tensors.items()}
    return {"mode": _pack_mode(slot.mode), "counters": slot.counters, "tensors": tensors}


def _slot(packed: Any) -> SlotState:
    from worker.state.tensors import unpack

    counters = {_is(name, str): _is(count, int) for name, count in packed["counters"].items()}
    tensors = {_is(name, str): unpack(*tensor) for name, tensor in packed["tensors"].items()}
    return SlotState(_mode(packed["mode"]), counters, tensors)


_RUN = {"samples": bytes, "received": int, "taken": int, "chunks": int, "closed": bool}


def _feed(packed: Any) -> FeedState:
    runs = [{name: _is(run[name], kind) for name, kind in _RUN.items()} for run in packed["runs"]]
    return FeedState(_mode(packed["mode"]), runs, _is(packed["ending"], bool))
