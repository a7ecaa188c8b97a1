"""What the doctor found: one line a check."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was looked at, how it is, and what to do about it if it is not well."""

    level: Level
    what: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.what}: {self.text}"
        return f"{line}\n         do: {self.remedy}" if self.remedy else line

    def fields(self) -> dict[str, Any]:
        return asdict(self)


def ok(what: str, text: str) -> Finding:
    return Finding("ok", what, text)


def warning(what: str, text: str, remedy: str) -> Finding:
    return Finding("warning", what, text, remedy)


def error(what: str, text: str, remedy: str) -> Finding:
    return Finding("error", what, text, remedy)


def skipped(what: str, why: str) -> Finding:
    return Finding("skipped", what, why)
