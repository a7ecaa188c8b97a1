"""A real Prometheus as a child process, for tests and pictures: it scrapes some targets and may evaluate rules."""

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import yaml

from deploy.server import LocalServer, free_ports

JOB = "trunkline"

Sample = dict[str, Any]  # "metric": labels; "value": [time, text], or "values": a list of these


class PrometheusUnavailable(Exception):
    """There is no Prometheus on this machine."""


class LocalPrometheus(LocalServer):
    """`with LocalPrometheus(["127.0.0.1:9090"]) as prometheus: prometheus.query("up")`.

    rules: the text of a rules file. Raises PrometheusUnavailable.
    """

    def __init__(
        self, targets: Sequence[str], scrape_ms: int = 1000, rules: str | None = None, start_timeout_s: float = 30.0
    ) -> None:
        server = shutil.which("prometheus")
        if server is None:
            raise PrometheusUnavailable("no `prometheus` on this machine (Debian package prometheus)")
        super().__init__("Prometheus", start_timeout_s)
        self._server = server
        self._config: dict[str, Any] = {
            "global": {"scrape_interval": f"{scrape_ms}ms", "evaluation_interval": f"{scrape_ms}ms"},
            "rule_files": [] if rules is None else ["rules.yaml"],
            "scrape_configs": [
                {"job_name": JOB, "scrape_timeout": f"{scrape_ms}ms", "static_configs": [{"targets": [*targets]}]}
            ],
        }
        self._rules = rules
        (self._port,) = free_ports(1)

    def query(self, expression: str) -> list[Sample]:
        """The samples of an instant query as of now. Raises ValueError for what Prometheus refuses."""
        return self._ask("/api/v1/query", query=expression)

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[Sample]:
        """The series between two Unix times."""
        return self._ask("/api/v1/query_range", query=expression, start=start, end=end, step=step_s)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def alerts(self) -> dict[str, set[str]]:
        """Names of the alerts that are not inactive, by state: `pending`, `firing`."""
        found: dict[str, set[str]] = {"pending": set(), "firing": set()}
        for alert in json.loads(self._get("/api/v1/alerts"))["data"]["alerts"]:
            found[alert["state"]].add(alert["labels"]["alertname"])
        return found

    def _ask(self, path: str, **parameters: object) -> list[Sample]:
        answer = json.loads(self._get(f"{path}?{urllib.parse.urlencode(parameters)}"))
        if answer["status"] != "success":
            raise ValueError(f"{answer['error']}: {parameters['query']}")
        found: list[Sample] = answer["data"]["result"]
        return found

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            if error.code in (400, 422):  # a query that is wrong: the body says why
                return bytes(error.read())
            raise

    def _command(self) -> list[str]:
        (self.directory / "prometheus.yml").write_text(yaml.safe_dump(self._config))
        (self.directory / "rules.yaml").write_text(self._rules or "")
        flags = {
            "config.file": self.directory / "prometheus.yml",
            "storage.tsdb.path": self.directory / "data",
            "web.listen-address": f"127.0.0.1:{self._port}",
        }
        return [self._server, *(f"--{name}={value}" for name, value in flags.items())]

    def _answers(self) -> bool:
        with suppress(OSError):
            self._get("/-/ready")
            return True
        return False
