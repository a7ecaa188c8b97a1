"""docs/wire.md against the code: every field, every reason, the partitioner and the example in bytes."""

import re
from pathlib import Path

import numpy as np
import pytest
from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from tests.integration.bad_records import CASES
from tests.integration.sending import stream_of
from wire import REASONS, Audio, Start, Topics, encode_key, encode_record
from wire.tables import FINALS, HEAD, OPTIONS, PARTIALS, RECORDS, REJECTED, WORD

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "wire.md").read_text()
SECTIONS = {part.splitlines()[0].strip("# "): part for part in re.split(r"^(?=#{2,3} )", PAGE, flags=re.MULTILINE)}
TABLES = {
    **{f"Record: {name}": table for name, table in RECORDS.items()},
    **{f"Event: {name}": table for name, table in (FINALS | PARTIALS | REJECTED).items()},
    "Map: options": OPTIONS,
    "Map: head": HEAD,
    "Map: word": WORD,
}
# From the Java client's own test, UtilsTest.testMurmur2.
JAVA_MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def rows(section: str) -> list[list[str]]:
    """The cells of a section's table, without its two heading lines."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


BAD_INPUT = rows("Bad input, case by case")


@pytest.mark.parametrize("section", TABLES)
def test_the_page_lists_every_field_in_order_and_whether_it_is_required(section):
    listed = {row[0].strip("`"): row[2] for row in rows(section) if row[0] not in ("`v`", "`type`")}
    fields = TABLES[section].fields
    assert listed == {name: "yes" if field.required else "no" for name, field in fields.items()}
    assert list(listed) == list(fields)


def test_every_field_table_of_the_page_is_checked():
    assert {name for name in SECTIONS if name.startswith(("Record:", "Event:", "Map:"))} == set(TABLES)


def test_the_page_lists_every_reason_with_its_sentence():
    listed = {reason.strip("`"): sentence for reason, sentence in rows("What is rejected, and why")}
    assert listed == REASONS


# rows whose test is a function of its own
OWN_TESTS = {
    "payload_10_mb_refused": "tests/integration/test_bad_input.py::test_payload_10_mb_refused",
    "codec_not_installed": "tests/integration/test_codecs.py"
    "::test_batches_of_a_codec_that_is_not_installed_are_stepped_over",
}
# not shown there: the demo model has both decoders
SHOWN_ELSEWHERE = {"decoder_not_supported"}


def test_every_row_of_bad_input_has_its_test_and_every_test_its_row():
    names = [row[0].strip("`") for row in BAD_INPUT]
    assert sorted(names) == sorted([*CASES, *OWN_TESTS])
    for test in OWN_TESTS.values():
        file, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text()


def test_every_row_of_bad_input_gives_the_reason_that_its_test_expects():
    good = stream_of(np.zeros(48_000, np.int16), 16000)
    listed = {name.strip("`"): reason.strip("`") for name, _, _, reason in BAD_INPUT}
    for name, make in CASES.items():
        assert {reason for _, _, reason in make("s", good) if reason} == ({listed[name]} - {""}), name
    assert set(listed.values()) - {""} == REASONS.keys() - SHOWN_ELSEWHERE


def test_the_page_names_every_topic():
    topics = Topics()
    listed = {row[0].strip("`") for row in rows("Topics")}
    assert {topics.audio, topics.final, topics.partial, topics.rejected, topics.streams} <= listed


def documented_murmur2():
    code = re.search(r"```python\n(def murmur2.*?)```", PAGE, re.DOTALL)
    assert code is not None
    names: dict = {}
    exec(code.group(1), names)
    return names["murmur2"]


@given(st.binary(max_size=64))
def test_the_murmur2_of_the_page_is_that_of_the_client(key):
    assert documented_murmur2()(key) == murmur2(key)


@pytest.mark.parametrize("key", JAVA_MURMUR2)
def test_the_murmur2_of_the_page_is_that_of_java(key):
    assert documented_murmur2()(key) == JAVA_MURMUR2[key] % 2**32


def test_the_partitions_of_the_page_are_right():
    vectors = [row for row in rows("Key and partitioner") if len(row) == 5]
    assert len(vectors) >= 5
    for key, value, *partitions in vectors:
        found = murmur2(encode_key(key.strip("`")))
        assert value.strip("`") == f"{found:08x}"
        assert [int(p) for p in partitions] == [(found & 0x7FFFFFFF) % n for n in (4, 12, 48)]


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("start", Start(nonce="b7e1", call_id="call-7", channel="agent")),
        ("audio", Audio(sequence=0, position=0, payload=b"\x00\x00\xff\x7f\x00\x80", nonce="b7e1")),
    ],
)
def test_the_example_in_bytes_is_what_the_codec_writes(name, record):
    block = re.search(rf"```hex {name}\n(.*?)```", PAGE, re.DOTALL)
    assert block is not None
    # The bytes of a line end where three spaces or more begin.
    digits = " ".join(line.split("   ")[0] for line in block.group(1).splitlines())
    assert bytes.fromhex(digits) == encode_record(record)


def test_the_key_of_the_example_is_in_bytes_too():
    assert encode_key("call-7/0").hex(" ") in PAGE
