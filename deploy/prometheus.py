"""A real Prometheus as a child process, for tests and pictures: it scrapes some targets and may evaluate rules."""

import json
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from deploy import guard

JOB = "trunkline"

Sample = dict[str, Any]  # "metric": labels; "value": [time, text], or "values": a list of these


class PrometheusUnavailable(Exception):
    """There is no Prometheus on this machine."""


class LocalPrometheus:
    """`with LocalPrometheus(["127.0.0.1:9090"]) as prometheus: prometheus.query("up")`. It ends with its starter.

    rules: the text of a rules file. Raises PrometheusUnavailable.
    """

    def __init__(
        self, targets: Sequence[str], scrape_ms: int = 1000, rules: str | None = None, start_timeout_s: float = 30.0
    ) -> None:
        server = shutil.which("prometheus")
        if server is None:
            raise PrometheusUnavailable("no `prometheus` on this machine (Debian package prometheus)")
        self._server = server
        self._config: dict[str, Any] = {
            "global": {"scrape_interval": f"{scrape_ms}ms", "evaluation_interval": f"{scrape_ms}ms"},
            "rule_files": [] if rules is None else ["rules.yaml"],
            "scrape_configs": [
                {"job_name": JOB, "scrape_timeout": f"{scrape_ms}ms", "static_configs": [{"targets": [*targets]}]}
            ],
        }
        self._rules = rules
        self._timeout = start_timeout_s
        self._process: guard.Guarded | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="trunkline-prometheus-")
        self.log_file = Path(self._folder.name) / "prometheus.log"
        self.address = ""

    def start(self) -> None:
        """Start the process and return when it answers. Raises RuntimeError with the log."""
        folder = Path(self._folder.name)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(self._config))
        (folder / "rules.yaml").write_text(self._rules or "")
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        flags = {
            "config.file": folder / "prometheus.yml",
            "storage.tsdb.path": folder / "data",
            "web.listen-address": f"127.0.0.1:{port}",
        }
        with self.log_file.open("wb") as output:
            command = [self._server, *(f"--{name}={value}" for name, value in flags.items())]
            self._process = guard.run(command, stdout=output, stderr=output, remove=[self._folder.name])
        deadline = time.monotonic() + self._timeout
        while True:
            with suppress(OSError):
                self._get("/-/ready")
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Prometheus did not come up:\n{self.log_file.read_text()[-3000:]}")
            time.sleep(0.1)

    def query(self, expression: str) -> list[Sample]:
        """The samples of an instant query as of now. Raises ValueError for what Prometheus refuses."""
        return self._ask("/api/v1/query", query=expression)

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[Sample]:
        """The series between two Unix times."""
        return self._ask("/api/v1/query_range", query=expression, start=start, end=end, step=step_s)

    def alerts(self) -> dict[str, set[str]]:
        """Names of the alerts that are not inactive, by state: `pending`, `firing`."""
        found: dict[str, set[str]] = {"pending": set(), "firing": set()}
        for alert in json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]:
            found[alert["state"]].add(alert["labels"]["alertname"])
        return found

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def _ask(self, path: str, **parameters: object) -> list[Sample]:
        answer = json.loads(self._get(f"{path}?{urllib.parse.urlencode(parameters)}"))
        if answer["status"] != "success":
            raise ValueError(f"{answer['error']}: {parameters['query']}")
        found: list[Sample] = answer["data"]["result"]
        return found

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"{self.address}{path}", timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code in (400, 422):  # a query that is wrong: the body says why
                return bytes(error.read())
            raise

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
