"""Compile the operations for this machine's PyTorch."""

import argparse
import sys
from collections.abc import Sequence

from worker.engine import native


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=native.COMMAND, description=__doc__)
    parser.add_argument(
        "--any-processor", action="store_true", help="also where the processor is not one they are for: for images"
    )
    options = parser.parse_args(arguments)
    if not (native.compilable() if options.any_processor else native.supported()):
        print(f"nothing to compile: the operations are for {native.FOR}; PyTorch's are used here")
        return 0
    try:
        made = native.build()
    except (RuntimeError, OSError) as error:
        print(f"the operations are not compiled, and the worker is slower: {error}", file=sys.stderr)
        return 1
    print(f"{'made' if made else 'there is'} {native.library()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
