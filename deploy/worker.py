"""A worker as a child process on this machine, for the demo, the tests and the measurements."""

import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy import guard
from deploy.zygote import Forked, Zygote
from wire.topics import Topics

GRACE_S = 30.0  # more than a worker's drain takes


class LocalWorker:
    """`trunkline worker` in a process of its own: `with LocalWorker(servers, topics, model=...) as worker: ...`.

    `settings` are further settings by their dotted names, `environment` further variables. With `zygote` it is forked
    from that and starts in a few seconds. It ends with the process that started it.
    """

    def __init__(
        self,
        servers: str,
        topics: Topics,
        model: str | Path,
        group: str = "trunkline",
        settings: Mapping[str, object] | None = None,
        start_timeout_s: float = 180.0,
        environment: Mapping[str, str] | None = None,
        zygote: Zygote | None = None,
    ) -> None:
        self._options: dict[str, object] = {
            "kafka.bootstrap_servers": servers,
            "kafka.group": group,
            "kafka.audio_topic": topics.audio,
            "kafka.final_topic": topics.final,
            "kafka.partial_topic": topics.partial,
            "kafka.rejected_topic": topics.rejected,
            "kafka.streams_topic": topics.streams,
            "model.source": model,
            "telemetry.port": 0,
            **(settings or {}),
        }
        self._timeout = start_timeout_s
        self._environment = dict(environment or {})
        self._zygote = zygote
        self._process: guard.Guarded | Forked | None = None
        self._port = 0
        self._directory = tempfile.TemporaryDirectory(prefix="trunkline-worker-")  # lives as long as this object
        self.log_file = Path(self._directory.name) / "worker.log"

    def start(self, wait: bool = True) -> None:
        """Start the process; with `wait`, return when it is ready. Raises RuntimeError with the log's end."""
        flags = [text for name, value in self._options.items() for text in (f"--{name}", str(value))]
        # what the caller's environment sets for another worker must not reach this one
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        environment |= self._environment
        self._port = 0
        with self.log_file.open("ab") as output:
            self._written = output.tell()
            if self._zygote is not None:
                self._process = self._zygote.fork(["worker", *flags], environment, self.log_file, GRACE_S)
            else:
                self._process = guard.run(
                    [sys.executable, "-m", "trunkline", "worker", *flags],
                    stdout=output,
                    stderr=output,
                    env=environment,
                    grace_s=GRACE_S,
                    remove=[self._directory.name],
                )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        deadline = time.monotonic() + self._timeout
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the worker did not start. The end of its log:\n{self.log_tail()}")
            time.sleep(0.1)

    def ready(self) -> bool:
        try:
            return self.get("/readyz") is not None
        except OSError:
            return False

    @property
    def address(self) -> str:
        """URL of the telemetry server. Raises OSError while there is none."""
        if not self._port:
            written = self.log_file.read_bytes()[self._written :].decode(errors="replace")
            found = re.search(r"metrics at http://[^:]+:(\d+)/metrics", written)
            if found is None:
                raise OSError("the worker has not opened its telemetry port yet")
            self._port = int(found[1])
        return f"http://127.0.0.1:{self._port}"

    def get(self, path: str) -> str:
        """Body of a telemetry page. Raises OSError while there is none or it answers with an error."""
        try:
            with urllib.request.urlopen(f"{self.address}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError as error:
            raise OSError(str(error)) from None

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample on /metrics; the sum over samples with these labels. 0 if there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        return sum(
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics"))
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @property
    def process(self) -> guard.Guarded | Forked:
        if self._process is None:
            raise RuntimeError("the worker was not started")
        return self._process

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> int:
        """SIGTERM and wait: the worker drains. Returns its exit code."""
        return self.process.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            if self._process is not None:
                self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop()
