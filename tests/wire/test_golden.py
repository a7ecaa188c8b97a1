"""The contract in bytes: each golden file against a map written by hand, and against the codec both ways."""

from pathlib import Path

import msgpack
import pytest

from tests.wire import examples
from wire import codec
from wire.tables import FINALS, PARTIALS, RECORDS, REJECTED

GOLDEN = Path(__file__).parent / "golden"
GROUPS = [
    (examples.RECORDS, codec.decode_record, codec.encode_record),
    (examples.FINALS, codec.decode_final, codec.encode_final),
    (examples.PARTIALS, codec.decode_partial, codec.encode_partial),
    (examples.REJECTED, codec.decode_rejected, codec.encode_rejected),
]
CASES = [
    pytest.param(name, expected, plain, decode, encode, id=name)
    for group, decode, encode in GROUPS
    for name, (expected, plain) in group.items()
]


@pytest.mark.parametrize(("name", "expected", "plain", "decode", "encode"), CASES)
def test_golden_bytes_hold_the_map_and_the_object(name, expected, plain, decode, encode):
    data = (GOLDEN / f"{name}.msgpack").read_bytes()
    assert msgpack.unpackb(data) == plain
    assert list(msgpack.unpackb(data)) == list(plain)
    assert decode(data) == expected
    assert encode(expected) == data


def test_every_golden_file_has_a_case_and_every_type_a_file():
    names = {path.stem for path in GOLDEN.glob("*.msgpack")}
    assert names == {case.id for case in CASES}
    kinds = {type(expected) for group, _, _ in GROUPS for expected, _ in group.values()}
    tables = [*RECORDS.values(), *FINALS.values(), *PARTIALS.values(), *REJECTED.values()]
    assert kinds == {table.kind for table in tables}


def test_the_fullest_golden_files_show_every_field():
    for tables, group in (
        (RECORDS, examples.RECORDS),
        (FINALS, examples.FINALS),
        (PARTIALS, examples.PARTIALS),
    ):
        for table in tables.values():
            shown = {key for kind, plain in group.values() if type(kind) is table.kind for key in plain}
            assert set(table.fields) <= shown
