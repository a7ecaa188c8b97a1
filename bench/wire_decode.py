"""What decoding and encoding a 100 ms audio record costs. Run: python -m bench.wire_decode

Prints microseconds a call, the minimum over several rounds, and one JSON object as the last line. Exits with
1 if a record costs more than the limit to decode.
"""

import json
import platform
import sys
import timeit
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from wire import Audio, decode_record, encode_record

LIMIT_US = 20.0

RECORDS = {
    "pcm_s16le_8k": Audio(sequence=123_456, position=98_764_800, payload=bytes(1600), nonce="5f0c2a9be1d34c77"),
    "pcm_f32le_16k": Audio(sequence=123_456, position=197_529_600, payload=bytes(6400), nonce="5f0c2a9be1d34c77"),
}


def microseconds(call: Callable[[], object], rounds: int = 9, calls: int = 5000) -> float:
    """Time of one call: the minimum over the rounds, since all noise on a shared machine adds."""
    return min(timeit.repeat(call, repeat=rounds, number=calls)) / calls * 1e6


def measure(rounds: int = 9, calls: int = 5000) -> dict[str, dict[str, float]]:
    """Microseconds to decode and to encode each record."""
    result = {}
    for name, record in RECORDS.items():
        data = encode_record(record)
        assert decode_record(data) == record
        result[name] = {
            "bytes": len(data),
            "decode_us": round(microseconds(partial(decode_record, data), rounds, calls), 3),
            "encode_us": round(microseconds(partial(encode_record, record), rounds, calls), 3),
        }
    return result


def processor() -> str:
    """The processor's name as Linux gives it, else the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical" if names else platform.machine()


def main() -> int:
    result = measure()
    versions = f"Python {platform.python_version()}, msgpack {version('msgpack')}"
    print(f"{processor()}; {versions}")
    print(f"{'100 ms record':<16}{'bytes':>8}{'decode us':>12}{'encode us':>12}")
    for name, row in result.items():
        print(f"{name:<16}{row['bytes']:>8}{row['decode_us']:>12}{row['encode_us']:>12}")
    ok = all(row["decode_us"] < LIMIT_US for row in result.values())
    print(
        json.dumps(
            {
                "bench": "wire_decode",
                "processor": processor(),
                "versions": versions,
                "limit_us": LIMIT_US,
                "ok": ok,
                "records": result,
            }
        )
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
