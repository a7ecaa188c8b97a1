"""The price that the worker's event loop pays for each record."""

from bench.wire_decode import LIMIT_US, measure


def test_decoding_a_100_ms_record_costs_under_20_microseconds():
    result = measure(rounds=7, calls=1000)
    assert {name: row["decode_us"] for name, row in result.items() if row["decode_us"] >= LIMIT_US} == {}
