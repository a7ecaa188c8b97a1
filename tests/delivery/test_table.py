"""The stream table's rows: nothing is lost on the way to the topic and back, whatever compaction has removed."""

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.wire.strategies import NONCE, RECORDS, text
from wire import Start
from worker.delivery.table import (
    PARTITION_KEY,
    Base,
    CheckpointRef,
    EndedRow,
    Row,
    Table,
    TableError,
    deferred_key,
    encode_deferred,
    encode_partition,
    encode_row,
    row_key,
)
from worker.stream.session import SessionLimits
from worker.transcript.transcriber import Progress

counts = st.integers(0, 2**62)
names = text(1, 40)
nonces = st.none() | NONCE
progress = st.builds(Progress, counts, counts, counts, counts, counts, counts)
rows = st.builds(
    Row,
    stream=names,
    first_offset=counts,
    nonce=nonces,
    start=RECORDS.filter(lambda record: isinstance(record, Start)),
    limits=st.builds(SessionLimits, counts, counts, counts),
    published=progress,
    model=names,
    checkpoint=st.none() | st.builds(CheckpointRef, names, counts),
    idle_at=st.none() | counts,
    base=st.none() | st.builds(Base, counts, progress),
)
flushes = st.lists(st.tuples(names, st.none() | counts), max_size=3).map(tuple)
ended = st.builds(EndedRow, names, counts, nonces, counts, counts, st.sampled_from([1, 2, 4]), flushes)
few = st.sampled_from(["a", "b"])
letters = st.one_of(
    st.builds(lambda stream, n, row: (row_key(stream, 3, n), encode_row(row)), few, st.integers(0, 2), rows | ended),
    st.builds(lambda stream, n: (row_key(stream, 3, n), None), few, st.integers(0, 2)),
    st.builds(lambda read, stamp: (PARTITION_KEY, encode_partition(read, stamp, "group")), counts, st.none() | counts),
    st.builds(lambda stream, read: (deferred_key(stream), encode_deferred(read)), few, counts),
    st.builds(lambda stream: (deferred_key(stream), None), few),
)


def read(written):
    table = Table()
    for key, value in written:
        table.apply(key, value)
    return table


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=rows, other=ended, partition=st.integers(0, 1000))
def test_rows_come_back_as_they_were(row, other, partition):
    keys = [row_key(r.stream, partition, r.first_offset) for r in (row, other)]
    table = read(zip(keys, map(encode_row, (row, other)), strict=True))
    if keys[0] != keys[1]:
        assert table.live == {keys[0]: row}
    assert table.ended == {keys[1]: other}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(letters, max_size=30))
def test_compaction_changes_nothing(written):
    last = {key: index for index, (key, _) in enumerate(written)}
    kept = [(key, value) for index, (key, value) in enumerate(written) if last[key] == index]
    assert read(kept) == read(written)
    assert read([(key, value) for key, value in kept if value is not None]) == read(written)


@given(stream=names, partition=st.integers(0, 1000), offset=counts)
def test_no_stream_has_the_key_of_something_else(stream, partition, offset):
    key = row_key(stream, partition, offset)
    table = read([(key, encode_row(EndedRow(stream, offset, None, offset)))])
    assert table.ended.keys() == {key}


@pytest.mark.parametrize("key", [PARTITION_KEY, b"s/3-7", deferred_key("s")])
@pytest.mark.parametrize(
    "value", [msgpack.packb({"v": 2}), msgpack.packb({}), msgpack.packb([1]), b"\xc1", b"", b"\x81\xa1v"]
)
def test_what_another_release_wrote_is_refused(key, value):
    with pytest.raises(TableError) as refused:
        read([(key, value)])
    assert repr(key) in str(refused.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(["start", "limits", "published", "checkpoint", "first"]), rows)
def test_a_row_with_a_field_missing_is_refused(field, row):
    value = msgpack.unpackb(encode_row(row))
    del value[field]
    with pytest.raises(TableError):
        read([(b"s/3-7", msgpack.packb(value))])
