"""`trunkline worker config`: the settings as this worker would take them, and where each comes from."""

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import SecretStr

from worker.sources import Loaded, SettingsError, load_with_sources

MASK = "**********"
EXIT_SETTINGS = 2

_HELP = """\
usage: trunkline worker config [--json] [any setting of `trunkline worker`]

The settings as a worker started with these flags, this environment and this file would have them: as YAML with the
source of each as a comment, or with --json as a map from each setting to its value and source. Secrets are masked.

exit codes: 0 they are right, 2 they are not; the errors are on standard error, all of them"""


def main(argv: Sequence[str]) -> int:
    if set(argv) & {"-h", "--help"}:
        print(_HELP)
        return 0
    as_json = "--json" in argv
    try:
        loaded = load_with_sources([flag for flag in argv if flag != "--json"])
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_SETTINGS
    print(_as_json(loaded) if as_json else _as_yaml(loaded))
    return 0


def effective(loaded: Loaded) -> dict[str, tuple[Any, str]]:
    """Value and source of each setting by its dotted name; secrets are masked."""
    return {name: (_shown(_value(loaded, name)), source) for name, source in loaded.sources.items()}


def _value(loaded: Loaded, name: str) -> Any:
    value: Any = loaded.settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    # a URL may hold a password, and that any character
    return re.sub(r"(://[^/@:]*):.*@", rf"\1:{MASK}@", value) if isinstance(value, str) else value


def _as_json(loaded: Loaded) -> str:
    found = {name: {"value": value, "source": source} for name, (value, source) in effective(loaded).items()}
    return json.dumps(found, indent=2)


def _as_yaml(loaded: Loaded) -> str:
    lines: list[tuple[str, str]] = []
    section = ""
    for name, (value, source) in sorted(effective(loaded).items(), key=lambda item: "." in item[0]):
        above, _, last = name.rpartition(".")
        if above != section:
            lines.append((f"{above}:", ""))
            section = above
        lines.append((f"{'  ' if above else ''}{last}: {_scalar(value)}", source))
    width = min(max(len(text) for text, source in lines if source), 60)
    return "\n".join(f"{text:<{width}}  # {source}" if source else text for text, source in lines)


def _scalar(value: Any) -> str:
    written: str = yaml.safe_dump(value, width=10_000, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...")
