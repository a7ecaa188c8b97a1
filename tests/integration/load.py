"""A load that goes on beside a test: streams of looped speech at a pace."""

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import islice
from types import TracebackType

from bench.looped import NONCE, Loop
from tests.integration.sending import Sender
from wire import End

RECORD_MS = 200
FOREVER = 1_000  # passes of a loop


class Load(AbstractContextManager["Load"]):
    """Each loop as a stream, at `pace` seconds of audio a second, until the end of the `with` block.

    ends: whether the streams end then. `seconds`: audio sent so far.
    """

    def __init__(
        self, sender: Sender, streams: Sequence[tuple[str, Loop]], pace: float = 1.0, ends: bool = False
    ) -> None:
        self.seconds = 0.0
        self.pace = pace
        self._sender = sender
        self._ends = ends
        self._records = {name: loop.records(FOREVER, RECORD_MS) for name, loop in streams}
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> "Load":
        for name, records in self._records.items():
            self._sender.put(name, [next(records)])  # the start
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join(30)
        if self._ends:
            for name in self._records:
                self._sender.put(name, [End(NONCE)])
            self._sender.flush()
        if error is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while not self._stopped.wait(max(0.0, due - time.monotonic())):
                for name, records in self._records.items():
                    self._sender.put(name, list(islice(records, 1)))
                self.seconds += len(self._records) * RECORD_MS / 1000
                due += RECORD_MS / 1000 / self.pace
        except BaseException as error:
            self._error = error
