"""Records and events to bytes and back. Bytes that break the contract raise `WireError` and nothing else.

Reading: unknown fields are ignored; an optional field that is nil counts as absent. Writing: an optional
field without a value is left out, and the map is checked by the tables of reading before it is packed, so
that a bad record fails at its author.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, cast

import msgpack

from wire import fields
from wire.events import Final, Partial, Rejected
from wire.fields import MAX_INT, MAX_PAYLOAD_BYTES, MAX_STREAM_ID_BYTES, VERSION, WireError
from wire.reasons import REASONS
from wire.records import Audio, Options, Record
from wire.tables import (
    FINALS,
    HEAD,
    MAX_DETAIL_BYTES,
    MAX_REJECTED_BYTES,
    OPTIONS,
    PARTIALS,
    RECORDS,
    REJECTED,
    WORD,
    Table,
    read,
)

Tables = Mapping[str, Table]


def decode_record(data: bytes | None) -> Record:
    """The record in a Kafka value. Raises WireError."""
    value = fields.unpack(data, fields.MAX_RECORD_BYTES, fields.MAX_RECORD_ITEMS)
    if value.get("type") == "audio":
        # Ten of these a second and stream: in the common case no table is walked.
        sequence, position, payload = value.get("sequence"), value.get("position"), value.get("payload")
        if (
            type(sequence) is int
            and type(position) is int
            and type(payload) is bytes
            and 0 <= sequence <= MAX_INT
            and 0 <= position <= MAX_INT
            and 0 < len(payload) <= MAX_PAYLOAD_BYTES
        ):
            nonce = value.get("nonce")
            if nonce is None or (type(nonce) is str and nonce.isascii() and 0 < len(nonce) <= 64):
                return Audio(sequence, position, payload, nonce)
    return cast(Record, _build(RECORDS, value))


def encode_record(record: Record) -> bytes:
    """The Kafka value of a record. Raises WireError where reading it would."""
    return _encode(RECORDS, record, fields.MAX_RECORD_BYTES)


def decode_key(key: bytes | None) -> str:
    """The stream id in a Kafka key. Raises WireError: no_key, key_not_utf8, key_too_long."""
    if not key:
        found = "null" if key is None else "empty"
        raise WireError("no_key", f"the key is {found}; it must be the stream id in UTF-8", "key")
    if len(key) > MAX_STREAM_ID_BYTES:
        message = f"the key has {len(key)} bytes; at most {MAX_STREAM_ID_BYTES} are allowed"
        raise WireError("key_too_long", message, "key")
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        message = f"the key is not UTF-8 at byte {error.start}; it must be the stream id in UTF-8"
        raise WireError("key_not_utf8", message, "key") from None


def encode_key(stream_id: str) -> bytes:
    """The Kafka key of a stream. Raises WireError where reading it would."""
    try:
        key = stream_id.encode()
    except UnicodeEncodeError:
        message = f"the stream id is {fields.show(stream_id)}, which UTF-8 cannot express"
        raise WireError("key_not_utf8", message, "key") from None
    decode_key(key)
    return key


def decode_final(data: bytes | None) -> Final:
    """The event in a value of the finals' topic. Raises WireError."""
    return cast(Final, _decode_event(FINALS, data))


def encode_final(event: Final) -> bytes:
    """The value of a final event. Raises WireError where reading it would."""
    return _encode(FINALS, event, fields.MAX_EVENT_BYTES)


def decode_partial(data: bytes | None) -> Partial:
    """The event in a value of the partials' topic. Raises WireError."""
    return cast(Partial, _decode_event(PARTIALS, data))


def encode_partial(event: Partial) -> bytes:
    """The value of a partial event. Raises WireError where reading it would."""
    return _encode(PARTIALS, event, fields.MAX_EVENT_BYTES)


def decode_rejected(data: bytes | None) -> Rejected:
    """The event in a value of the rejected topic; its reason may be a newer release's. Raises WireError."""
    return cast(Rejected, _decode_event(REJECTED, data))


def encode_rejected(event: Rejected) -> bytes:
    """The value of a rejected record. Raises WireError where reading it would."""
    return _encode(REJECTED, event, fields.MAX_EVENT_BYTES)


def reject(data: bytes | None, reason: str, detail: str) -> Rejected:
    """What is kept of a record that is not accepted; `data` is its Kafka value.

    `reason` is a key of `wire.reasons.REASONS` (KeyError otherwise); a long `detail` is cut.
    """
    if reason not in REASONS:
        raise KeyError(reason)
    value = data or b""
    short = detail.encode(errors="replace")[:MAX_DETAIL_BYTES].decode(errors="ignore")
    return Rejected(reason, short, value[:MAX_REJECTED_BYTES], len(value), hashlib.sha256(value).digest())


def _decode_event(tables: Tables, data: bytes | None) -> Any:
    return _build(tables, fields.unpack(data, fields.MAX_EVENT_BYTES, fields.MAX_EVENT_ITEMS))


def _build(tables: Tables, value: dict[Any, Any]) -> Any:
    """The record or event that a map of the known version holds."""
    name = value.get("type")
    table = tables.get(name) if type(name) is str else None
    if table is None:
        found = fields.show(name) if "type" in value else "missing"
        raise WireError("unknown_type", f"type is {found}; it must be one of {', '.join(tables)}", "type")
    own = read(table, value)
    if not table.has_head:
        return table.kind(**own)
    return table.kind(head=HEAD.kind(**read(HEAD, value)), **own)


def _encode(tables: Tables, item: Any, max_bytes: int) -> bytes:
    name = next((name for name, table in tables.items() if type(item) is table.kind), None)
    if name is None:
        kinds = ", ".join(table.kind.__name__ for table in tables.values())
        message = f"the object is {fields.show(item)}; it must be one of {kinds}"
        raise WireError("unknown_type", message, "type")
    table = tables[name]
    value: dict[str, Any] = {"v": VERSION, "type": name}
    if table.has_head:
        value |= _plain(HEAD, item.head)
    value |= _plain(table, item)
    _build(tables, value)
    packed = msgpack.packb(value)
    if len(packed) > max_bytes:
        message = f"the {name} has {len(packed)} bytes; at most {max_bytes} are allowed"
        raise WireError("out_of_range", message)
    return cast(bytes, packed)


def _plain(table: Table, item: object) -> dict[str, Any]:
    """The wire map of a dataclass, without empty optional fields."""
    value: dict[str, Any] = {}
    for name, field in table.fields.items():
        found = _plain_value(getattr(item, name))
        if field.required or not (found is None or found == {}):
            value[name] = found
    return value


def _plain_value(value: Any) -> Any:
    if type(value) in (tuple, list):
        return [_plain(WORD, item) if type(item) is WORD.kind else item for item in value]
    return _plain(OPTIONS, value) if type(value) is Options else value
