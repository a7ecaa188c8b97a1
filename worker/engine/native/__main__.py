"""Compile the operations for this machine's PyTorch."""

import sys

from worker.engine import native

if not native.supported():
    print("nothing to compile: the operations are for x86-64 with AVX2 and without AVX-512; PyTorch's are used here")
else:
    try:
        made = native.build()
    except RuntimeError as error:
        sys.exit(f"{error}\nThe worker runs without, slower.")
    print(f"{'made' if made else 'there is'} {native.library()}")
