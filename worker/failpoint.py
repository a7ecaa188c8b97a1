"""Places at which a test stops this process dead, to prove that nothing depends on what would have come next.

`TRUNKLINE_FAILPOINT=commit.3-sent` kills the process (SIGKILL) when it passes that place for the first time;
`commit.3-sent:5` the fifth time. Unset, a place costs one `is None` test.
"""

import os
import signal

_armed: str | None = os.environ.get("TRUNKLINE_FAILPOINT")
_passes = 0


def failpoint(place: str) -> None:
    """Die here if the environment says so."""
    if _armed is None:
        return
    global _passes
    name, _, count = _armed.partition(":")
    if place != name:
        return
    _passes += 1
    if _passes >= int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
