"""`trunkline doctor` as a test runs it."""

import json

from tests.integration.support import MODEL, unique
from wire import Topics
from worker.doctor.cli import main


class Doctor:
    """Runs the command; keeps what it found by what was looked at."""

    def __init__(self, servers: str, topics: Topics, capsys) -> None:
        self._capsys = capsys
        self.group = unique("doctor")
        self.flags = ["--json", f"--kafka.bootstrap_servers={servers}", f"--kafka.group={self.group}"]
        for name in Topics.__dataclass_fields__:
            self.flags.append(f"--kafka.{name}_topic={getattr(topics, name)}")

    def __call__(self, *flags: str) -> tuple[int, dict[str, list[dict]]]:
        model = [] if any(flag.startswith("--model.source") for flag in flags) else [f"--model.source={MODEL}"]
        code = main([*self.flags, *model, *flags])
        found: dict[str, list[dict]] = {}
        for line in self._capsys.readouterr().out.splitlines():
            finding = json.loads(line)
            found.setdefault(finding["what"], []).append(finding)
            assert (finding["level"] in ("warning", "error")) == bool(finding["remedy"]), finding
        assert code == int(any(each["level"] == "error" for findings in found.values() for each in findings))
        return code, found

    def error(self, what: str, *flags: str) -> dict:
        """The one error, which is of this kind."""
        code, found = self(*flags)
        errors = [finding for findings in found.values() for finding in findings if finding["level"] == "error"]
        assert code == 1
        assert [finding["what"] for finding in errors] == [what], errors
        return errors[0]
