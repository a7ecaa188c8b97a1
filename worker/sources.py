"""Where settings come from: flags win over `TRUNKLINE_` environment, environment over YAML, YAML over defaults.

A nested setting is `TRUNKLINE_MODEL__LOOK_AHEAD` in the environment, `model: {look_ahead: ...}` in YAML and
`--model.look_ahead` as a flag. Every error is reported at once, and no message shows a secret.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, EnvSettingsSource, PydanticBaseSettingsSource
from pydantic_settings import SettingsError as SourceError

from worker.settings import PREFIX, Section, Settings

NOT_SETTINGS = frozenset({"TRUNKLINE_CONFIG", "TRUNKLINE_FAILPOINT", "TRUNKLINE_TESTS_NO_SKIP"})

Tree = dict[str, Any]


class SettingsError(Exception):
    """Wrong settings; `problems` names all of them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("wrong settings:\n" + "\n".join(f"  - {p}" for p in problems))
        self.problems = problems


@dataclass(frozen=True)
class Loaded:
    """Settings and, for each by its dotted name, where it comes from."""

    settings: Settings
    sources: Mapping[str, str]


def load(argv: Sequence[str] = ()) -> Settings:
    """Settings from flags, environment and the YAML file of `--config` or TRUNKLINE_CONFIG.

    Raises SettingsError with every problem; SystemExit for `--help` and for a flag without its value.
    """
    return load_with_sources(argv).settings


def load_with_sources(argv: Sequence[str] = ()) -> Loaded:
    """As `load`."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--config", default=os.environ.get("TRUNKLINE_CONFIG"))
    chosen, rest = early.parse_known_args(list(argv))
    problems = _unknown_names(os.environ)
    written = _read_file(chosen.config, problems) if chosen.config else {}
    try:
        flags, environment = _read_flags(rest, problems), EnvSettingsSource(_Flagged)()
    except SourceError as error:
        raise SettingsError([*problems, str(error)]) from None
    trees: list[Tree] = [flags, environment, written]
    merged: Tree = {}
    for tree in reversed(trees):
        merged = _merge(merged, tree)
    try:
        settings = _Merged(**merged)
    except ValidationError as error:
        problems += [_sentence(item) for item in error.errors()] + _contradictions(_without_errors(merged, error))
        raise SettingsError(problems) from None
    problems += _contradictions(settings)
    if problems:
        raise SettingsError(problems)
    return Loaded(settings, {name: _source(name, trees, chosen.config) for name in names()})


def names() -> list[str]:
    """Every setting by its dotted name."""
    found = []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        inner = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else None
        found += [name] if inner is None else [f"{name}.{each}" for each in inner]
    return found


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper().replace('.', '__')}"


class _Flagged(Settings):
    """Run one worker. `--config FILE` or TRUNKLINE_CONFIG names a YAML file with any of these settings."""


class _Merged(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _read_flags(arguments: list[str], problems: list[str]) -> Tree:
    """What flags say; those that do not exist are added to `problems`, without their values."""

    def parse(parser: argparse.ArgumentParser, *given: Any) -> argparse.Namespace:
        found: argparse.Namespace
        found, unknown = argparse.ArgumentParser.parse_known_args(parser, *given)
        names = [each.partition("=")[0] for each in unknown if each.startswith("-")]
        problems.extend(f"{name}: no such flag; `trunkline worker --help` lists them" for name in names)
        if unknown and not names:
            problems.append("an argument that belongs to no flag")
        return found

    source: CliSettingsSource[Any] = CliSettingsSource(
        _Flagged,
        cli_prog_name="trunkline worker",
        cli_parse_args=arguments,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        parse_args_method=parse,
    )
    return source()


def _read_file(path: str, problems: list[str]) -> Tree:
    """The map in a YAML file; what is wrong with the file itself is added to `problems`."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"--config: {path!r} cannot be read: {error}")
        return {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        # no word of it: that could be a secret
        problems.append(f"--config: {path!r}{where}: no YAML; text that holds : # & * ! or quotes is written in quotes")
        return {}
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        problems.append(f"--config: {path!r} holds no map of sections")
        return {}
    return found


def _unknown_names(environ: Mapping[str, str]) -> list[str]:
    """A mistyped section in the environment would otherwise be passed over in silence."""
    known = {name.upper() for name in Settings.model_fields}
    return [
        f"{name}: no such setting (sections: {', '.join(sorted(known))})"
        for name in sorted(environ)
        if name.startswith(PREFIX)
        and name not in NOT_SETTINGS
        and name.removeprefix(PREFIX).split("__")[0].upper() not in known
    ]


def _merge(under: Tree, over: Tree) -> Tree:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _source(name: str, trees: list[Tree], file: str | None) -> str:
    for tree, said in zip(trees, (f"flag --{name}", variable(name), f"file {file}"), strict=True):
        found: Any = tree
        for part in name.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            return said
    return "default"


def _without_errors(merged: Tree, error: ValidationError) -> Settings | None:
    """What is right among wrong settings, so that its contradictions are named, too."""
    rest = _merge({}, merged)
    for item in error.errors():
        inner: Any = rest
        *above, last = item["loc"] or ("",)
        for part in above:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(last, None)
    try:
        return _Merged(**_merge({"model": {"source": ""}}, rest))
    except ValidationError:
        return None


def _contradictions(settings: Settings | None) -> list[str]:
    sections = {} if settings is None else {name: getattr(settings, name) for name in type(settings).model_fields}
    return [
        f"{name}.{field}: {text}; flag --{name}.{field}, environment {variable(f'{name}.{field}')}"
        for name, section in sections.items()
        if isinstance(section, Section)
        for field, text in section.contradictions().items()
    ]


def _sentence(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if where == "model" and item["type"] == "missing":
        where = "model.source"  # the section is missing because its one required setting is
    # what stands under a mistyped name, or in place of a section, may be a secret as well
    shown = where in names() and "password" not in where and not isinstance(item["input"], dict | list)
    found = f" (found {item['input']!r})" if shown and item["type"] != "missing" else ""
    return f"{where}: {item['msg']}{found}; flag --{where}, environment {variable(where)}"
