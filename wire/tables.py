"""The field tables of the contract: for each dataclass its wire fields, in order, with their checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from wire import fields
from wire.events import (
    END_REASONS,
    UTTERANCE_REASONS,
    Gap,
    Head,
    Marker,
    Partial,
    Rejected,
    StreamEnd,
    Utterance,
    Word,
)
from wire.fields import Check, WireError
from wire.records import DECODERS, ENCODINGS, SAMPLE_RATES, Audio, End, Flush, Options, Start

MAX_REJECTED_BYTES = 64 * 1024
MAX_DETAIL_BYTES = 1024


class Field(NamedTuple):
    """A field's check, and whether the field must be there."""

    check: Check[Any]
    required: bool = True


@dataclass(frozen=True)
class Table:
    """How one dataclass stands on the wire.

    rule: a check of several fields together, given the prefix of their full names.
    has_head: whether the fields of `Head` stand in the same map.
    """

    kind: type
    fields: Mapping[str, Field]
    rule: Callable[[dict[str, Any], str], None] | None = None
    has_head: bool = False


def read(table: Table, value: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """The table's fields out of a map, checked; absent optional ones are left to the dataclass's defaults.

    Raises WireError, with field names behind `prefix`.
    """
    found: dict[str, Any] = {}
    for name, (check, required) in table.fields.items():
        item = value.get(name)
        if item is None:
            if not required:
                continue
            if name not in value:
                raise WireError("missing_field", f"{prefix}{name} is missing; it is required", prefix + name)
        found[name] = check(item, prefix + name)
    if table.rule is not None:
        table.rule(found, prefix)
    return found


def _optional(check: Check[Any]) -> Field:
    return Field(check, required=False)


def _options(value: object, field: str) -> Options:
    if type(value) is not dict:
        raise fields.wrong_type(value, field, "a map")
    return Options(**read(OPTIONS, value, f"{field}."))


def _words(value: object, field: str) -> tuple[Word, ...]:
    if type(value) is not list:
        raise fields.wrong_type(value, field, "an array of maps")
    if len(value) > fields.MAX_EVENT_ITEMS:
        message = f"{field} has {len(value)} entries; at most {fields.MAX_EVENT_ITEMS} are allowed"
        raise WireError("out_of_range", message, field)
    return tuple(_word(item, f"{field}[{i}]") for i, item in enumerate(value))


def _word(value: object, field: str) -> Word:
    if type(value) is not dict:
        raise fields.wrong_type(value, field, "a map")
    return Word(**read(WORD, value, f"{field}."))


def _span(found: dict[str, Any], prefix: str) -> None:
    if found["end"] < found["start"]:
        message = f"{prefix}end is {found['end']}; it must not be before start, {found['start']}"
        raise WireError("out_of_range", message, f"{prefix}end")


def _hypothesis(found: dict[str, Any], prefix: str) -> None:
    _span(found, prefix)
    if not found["text"].startswith(found["stable"]):
        message = f"{prefix}stable is {fields.show(found['stable'])}; it must be a prefix of text"
        raise WireError("out_of_range", message, f"{prefix}stable")


_int = fields.integer()
_text = fields.text(0, fields.MAX_TEXT_BYTES)
_nonce = fields.text(1, 64)
_flush_id = fields.text(1, 128)
_call = {
    "call_id": _optional(fields.text(1, 256)),
    "channel": _optional(fields.text(1, 64)),
    "language": _optional(fields.text(1, 64)),
    "metadata": _optional(fields.metadata),
}

OPTIONS = Table(
    Options,
    {
        "look_ahead": _optional(_int),
        "endpoint_ms": _optional(_int),
        "max_utterance_ms": _optional(_int),
        "idle_ms": _optional(_int),
        "decoder": _optional(fields.one_of(DECODERS)),
        "partials": _optional(fields.boolean),
    },
)

WORD = Table(
    Word,
    {"text": Field(_text), "start": Field(_int), "end": Field(_int), "confidence": Field(fields.confidence)},
    _span,
)

HEAD = Table(
    Head,
    {
        # Stream id, partition, offset and number at their longest stay below 320 bytes.
        "id": Field(fields.text(1, 512)),
        "stream": Field(fields.text(1, fields.MAX_STREAM_ID_BYTES)),
        "number": Field(_int),
        "model": Field(fields.text(1, 1024)),
        "offsets": Field(fields.offsets),
        **_call,
    },
)

RECORDS = {
    "start": Table(
        Start,
        {
            "nonce": Field(_nonce),
            "encoding": Field(fields.one_of(ENCODINGS, "unknown_encoding")),
            "sample_rate": Field(fields.one_of(SAMPLE_RATES, "unknown_sample_rate")),
            **_call,
            "options": _optional(_options),
        },
    ),
    "audio": Table(
        Audio,
        {
            "sequence": Field(_int),
            "position": Field(_int),
            "payload": Field(fields.payload),
            "nonce": _optional(_nonce),
        },
    ),
    "flush": Table(Flush, {"id": Field(_flush_id), "nonce": _optional(_nonce), "position": _optional(_int)}),
    "end": Table(End, {"nonce": _optional(_nonce), "position": _optional(_int)}),
}

FINALS = {
    "utterance": Table(
        Utterance,
        {
            "text": Field(_text),
            "words": Field(_words),
            "start": Field(_int),
            "end": Field(_int),
            "reason": Field(fields.one_of(UTTERANCE_REASONS)),
        },
        _span,
        has_head=True,
    ),
    "marker": Table(Marker, {"flush_id": Field(_flush_id), "time": Field(_int)}, has_head=True),
    "gap": Table(Gap, {"start": Field(_int), "end": Field(_int)}, _span, has_head=True),
    "end": Table(
        StreamEnd,
        {
            "reason": Field(fields.one_of(END_REASONS)),
            "duration": Field(_int),
            "utterances": Field(_int),
            "words": Field(_int),
            "gap_ms": Field(_int),
        },
        has_head=True,
    ),
}

PARTIALS = {
    "partial": Table(
        Partial,
        {"text": Field(_text), "stable": Field(_text), "start": Field(_int), "end": Field(_int)},
        _hypothesis,
        has_head=True,
    ),
}

REJECTED = {
    "rejected": Table(
        Rejected,
        {
            "reason": Field(fields.text(1, 64)),
            "detail": Field(fields.text(0, MAX_DETAIL_BYTES)),
            "data": Field(fields.byte_string(0, MAX_REJECTED_BYTES)),
            "size": Field(_int),
            "sha256": Field(fields.byte_string(32, 32)),
        },
    ),
}
