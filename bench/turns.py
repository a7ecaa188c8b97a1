"""Short operations in turns, so that all of them meet the same machine."""

import time
from collections.abc import Callable, Mapping


def least(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of processor time of each, the least of the rounds."""
    found = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.process_time()
            function()
            found[name] = min(found[name], time.process_time() - began)
    return found
