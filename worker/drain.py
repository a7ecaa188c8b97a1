"""`trunkline worker drain`: tell the worker on this machine to hand its calls over, and wait until it has gone."""

import argparse
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

POLL_S = 0.2


def main(argv: Sequence[str]) -> int:
    """Exit codes: 0 the worker has drained and ended (or was not there), 1 it is still there after the time-out."""
    parser = argparse.ArgumentParser(
        prog="trunkline worker drain",
        description="Tell the worker on this machine to stop reading, publish what it heard, checkpoint every stream, "
        "commit and leave the group, as SIGTERM does; return when it has gone. For a preStop hook.",
    )
    port = os.environ.get("TRUNKLINE_TELEMETRY__PORT", "9090")
    parser.add_argument("--url", default=f"http://127.0.0.1:{port}", help="the worker's telemetry server (%(default)s)")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="wait so long (%(default).0f s)")
    options = parser.parse_args(argv)
    deadline = time.monotonic() + options.timeout
    try:
        _ask(f"{options.url}/drain", "POST")
        while time.monotonic() < deadline:
            _ask(f"{options.url}/healthz", "GET")
            time.sleep(POLL_S)
    except urllib.error.HTTPError as error:
        print(f"{options.url}: {error.code} {error.read().decode(errors='replace').strip()}", file=sys.stderr)
        return 1
    except OSError:
        return 0  # nobody listens
    print(f"the worker is still there after {options.timeout:.0f} s", file=sys.stderr)
    return 1


def _ask(url: str, method: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:
        answer.read()
