"""Ended streams: remembered by name, their rows kept while a restart may come by their records again."""

import pytest

from worker import past
from worker.delivery.table import EndedRow, Table, row_key
from worker.past import EndedStreams


def key(row):
    return row_key(row.stream, 3, row.first_offset)


def ended(*rows):
    """As after a restart."""
    return EndedStreams(3, Table(ended={key(row): row for row in rows}))


OLD, NEW = EndedRow("s", 10, "old", 19), EndedRow("s", 20, "new", 29)


@pytest.mark.parametrize("told", [(OLD, NEW), (NEW, OLD)])
def test_of_one_name_the_latest_stream_is_remembered_in_whatever_order_their_ends_are_told(told):
    streams = ended()
    streams.add(OLD)
    streams.forget("s", 20)
    streams.add(NEW)
    for row in told:
        streams.published(row)
    assert streams.get("s") == NEW
    assert streams.tombstones(100) == [key(OLD)]
    assert streams.tombstones(100) == []


def test_an_older_stream_of_the_name_that_is_replayed_leaves_the_memory_as_it_is():
    streams = ended(NEW)
    streams.forget("s", 10)  # its first record is read again
    streams.add(OLD)  # the newer one's start ends it
    streams.published(OLD)
    assert streams.get("s") == NEW
    assert streams.tombstones(100) == [key(OLD)]


def test_a_name_taken_anew_is_no_longer_ended():
    streams = ended(OLD)
    assert streams.get("s") == OLD
    streams.forget("s", 20)
    assert streams.get("s") is None
    assert streams.tombstones(100) == [key(OLD)]


@pytest.mark.parametrize("resume", [0, 15, 19])
def test_a_row_stays_until_the_committed_offset_has_passed_the_last_record(resume):
    streams = ended(OLD)
    streams.forget("s", 20)
    assert streams.tombstones(resume) == []
    assert streams.tombstones(20) == [key(OLD)]


def test_those_that_ended_first_are_forgotten_first(monkeypatch):
    monkeypatch.setattr(past, "ENDED_STREAMS", 2)
    rows = [EndedRow(name, n, None, 10 + n) for n, name in enumerate("abcd")]
    streams = ended(*reversed(rows))
    assert [streams.get(name) for name in "abcd"] == [None, None, *rows[2:]]
    assert streams.tombstones(100) == [key(row) for row in rows[:2]]
