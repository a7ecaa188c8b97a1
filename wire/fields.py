"""Bytes to a checked map: unpacking with limits, and one checker per kind of field.

A checker takes the value found and the field's full name, and returns the value to keep or raises
`WireError`. Types are compared exactly, so a bool is never an int.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgpack

from wire.reasons import REASONS
from wire.records import Metadata

VERSION = 1
MAX_INT = 2**63 - 1
MAX_STREAM_ID_BYTES = 256
MAX_PAYLOAD_BYTES = 1024 * 1024
# A record's other fields fit in 64 KiB many times over unless unknown fields are large.
MAX_RECORD_BYTES = MAX_PAYLOAD_BYTES + 64 * 1024
MAX_METADATA = 64
# Events are written by workers and bounded by the broker; this only stops nonsense.
MAX_EVENT_BYTES = 16 * 1024 * 1024
MAX_TEXT_BYTES = 1024 * 1024
# msgpack makes room for an announced array, at every level of nesting, before it sees the elements.
MAX_RECORD_ITEMS = 1024
MAX_EVENT_ITEMS = 65_536

T = TypeVar("T")
Check = Callable[[object, str], T]


class WireError(ValueError):
    """A record or event that breaks the contract.

    reason: a key of `wire.reasons.REASONS`. field: full name of the field at fault, None for the whole value.
    str() is a sentence that says what was found and what is allowed.
    """

    def __init__(self, reason: str, message: str, field: str | None = None) -> None:
        if reason not in REASONS:
            raise KeyError(reason)
        super().__init__(message)
        self.reason = reason
        self.field = field

    def __reduce__(self) -> tuple[type["WireError"], tuple[str, str, str | None]]:
        return type(self), (self.reason, str(self), self.field)


def show(value: object) -> str:
    """A short description of any value for an error message, at a bounded cost."""
    if value is None:
        return "nil"
    if type(value) is str:
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}... ({len(value)} characters)"
    if type(value) in (bool, float):
        return repr(value)
    if type(value) is int:
        return str(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length()} bits"
    if type(value) is bytes:
        return f"{len(value)} bytes"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouE' else 'a'} {name}"


def wrong_type(value: object, field: str, allowed: str) -> WireError:
    return WireError("wrong_type", f"{field} is {show(value)}; it must be {allowed}", field)


def unpack(data: bytes | None, max_bytes: int, max_items: int) -> dict[Any, Any]:
    """The map in `data`, of the known version.

    Raises WireError: no_value, payload_too_large, malformed, unknown_version.
    """
    if data is None:
        raise WireError("no_value", "the value is null; it must be a MessagePack map")
    if len(data) > max_bytes:
        message = f"the record has {len(data)} bytes; at most {max_bytes} are allowed"
        raise WireError("payload_too_large", message)
    try:
        value = msgpack.unpackb(data, max_array_len=max_items, max_map_len=max_items)
    except (ValueError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        what = str(error)[:200] or type(error).__name__
        raise WireError("malformed", f"the value is not one MessagePack map: {what}") from None
    if type(value) is not dict:
        raise WireError("malformed", f"the value is {show(value)}; it must be a MessagePack map")
    version = value.get("v")
    if type(version) is not int or version != VERSION:
        found = show(version) if "v" in value else "missing"
        raise WireError("unknown_version", f"v is {found}; it must be {VERSION}", "v")
    return value


def integer(low: int = 0, high: int = MAX_INT) -> Check[int]:
    """An int in low..high."""

    def check(value: object, field: str) -> int:
        if type(value) is not int:
            raise wrong_type(value, field, "an integer")
        if not low <= value <= high:
            raise WireError("out_of_range", f"{field} is {show(value)}; it must be in {low}..{high}", field)
        return value

    return check


def text(low: int, high: int) -> Check[str]:
    """A string of low..high bytes of UTF-8."""

    def check(value: object, field: str) -> str:
        if type(value) is not str:
            raise wrong_type(value, field, "a string")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            message = f"{field} is {show(value)}, which UTF-8 cannot express"
            raise WireError("wrong_type", message, field) from None
        if not low <= size <= high:
            message = f"{field} has {size} bytes of UTF-8; it must have {low} to {high}"
            raise WireError("out_of_range", message, field)
        return value

    return check


def byte_string(low: int, high: int) -> Check[bytes]:
    """A byte string of low..high bytes."""

    def check(value: object, field: str) -> bytes:
        if type(value) is not bytes:
            raise wrong_type(value, field, "a byte string")
        if not low <= len(value) <= high:
            message = f"{field} has {len(value)} bytes; it must have {low} to {high}"
            raise WireError("out_of_range", message, field)
        return value

    return check


def payload(value: object, field: str) -> bytes:
    """Audio bytes, 1 byte to 1 MiB."""
    if type(value) is not bytes:
        raise wrong_type(value, field, "a byte string")
    if not value:
        message = f"{field} has no bytes; it must have 1 to {MAX_PAYLOAD_BYTES}"
        raise WireError("payload_empty", message, field)
    if len(value) > MAX_PAYLOAD_BYTES:
        message = f"{field} has {len(value)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed"
        raise WireError("payload_too_large", message, field)
    return value


def one_of(allowed: Sequence[T], reason: str = "unknown_value") -> Check[T]:
    """One of a few values of one type."""
    kind = type(allowed[0])
    names = ", ".join(str(item) for item in allowed)

    def check(value: object, field: str) -> T:
        if type(value) is not kind:
            raise wrong_type(value, field, f"one of {names}")
        if value not in allowed:
            raise WireError(reason, f"{field} is {show(value)}; it must be one of {names}", field)
        return value

    return check


def boolean(value: object, field: str) -> bool:
    if type(value) is not bool:
        raise wrong_type(value, field, "a boolean")
    return value


def confidence(value: object, field: str) -> float:
    """A number in 0..1; an integer 0 or 1 counts as a float, since some encoders write it so."""
    if type(value) is not float and type(value) is not int:
        raise wrong_type(value, field, "a float")
    if not 0 <= value <= 1:
        raise WireError("out_of_range", f"{field} is {show(value)}; it must be in 0..1", field)
    return float(value)


def offsets(value: object, field: str) -> tuple[int, int]:
    """First and last offset, in order."""
    if type(value) is not list or len(value) != 2:
        raise wrong_type(value, field, "an array of two integers")
    first, last = (_int(item, f"{field}[{i}]") for i, item in enumerate(value))
    if last < first:
        message = f"{field} runs from {first} to {last}; it must not run backwards"
        raise WireError("out_of_range", message, field)
    return first, last


def metadata(value: object, field: str) -> Metadata:
    """At most 64 entries: keys of 1..128 bytes; strings to 1024 bytes, ints, finite floats, bools, nil."""
    if type(value) is not dict:
        raise wrong_type(value, field, "a map")
    if len(value) > MAX_METADATA:
        message = f"{field} has {len(value)} entries; at most {MAX_METADATA} are allowed"
        raise WireError("out_of_range", message, field)
    for key, item in value.items():
        name = f"{field}[{show(key)}]"
        _key(key, name)
        if type(item) is str:
            _long_text(item, name)
        elif type(item) is int:
            _signed(item, name)
        elif type(item) is float:
            if not math.isfinite(item):
                raise WireError("out_of_range", f"{name} is {item}; it must be finite", name)
        elif item is not None and type(item) is not bool:
            raise wrong_type(item, name, "a string, integer, float, boolean or nil")
    return value


_int = integer()
_signed = integer(-(2**63), MAX_INT)
_key = text(1, 128)
_long_text = text(0, 1024)
