"""docs/settings.md, from the settings model: `python -m worker.settings_page > docs/settings.md`."""

from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from worker.settings import Section, Settings
from worker.sources import variable

HEAD = """\
# Settings of the worker

Made from `worker/settings.py` by `make docs`; do not edit.

A setting is a flag (`--model.look_ahead 1`), an environment variable (`TRUNKLINE_MODEL__LOOK_AHEAD=1`) or a place in
the YAML file that `--config` or `TRUNKLINE_CONFIG` names (`model: {look_ahead: 1}`). Flags win over the environment,
the environment over the file. `trunkline worker config` prints what is in effect, and where each value comes from. All
errors are reported at once, with exit code 2.

Secrets belong into the environment or into a file (`*_password_file`): a command line can be read by every user of the
machine. They are masked wherever settings are printed.
"""


def page() -> str:
    parts = [HEAD]
    plain = {name: field for name, field in Settings.model_fields.items() if _section(field) is None}
    for name, field in Settings.model_fields.items():
        section = _section(field)
        if section is not None:
            rows = {f"{name}.{inner}": each for inner, each in section.model_fields.items()}
            parts.append(f"## `{name}`\n\n{_table(rows)}")
    parts.append(f"## Others\n\n{_table(plain)}")
    return "\n".join(parts)


def _section(field: FieldInfo) -> type[Section] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _table(rows: dict[str, FieldInfo]) -> str:
    lines = ["| setting | values | default | |", "|---|---|---|---|"]
    for name, field in rows.items():
        lines.append(f"| `{name}`<br>`{variable(name)}` | {_values(field)} | {_default(field)} | {_text(field)} |")
    return "\n".join(lines) + "\n"


def _values(field: FieldInfo) -> str:
    kinds = [kind for kind in _flat(field.annotation) if kind is not NoneType]
    literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if literals:
        return ", ".join(f"`{value}`" for value in literals)
    name = {int: "whole number", float: "number", bool: "`true`, `false`", SecretStr: "secret"}.get(kinds[0], "text")
    return " ".join([name, *_bounds(field)])


def _flat(kind: Any) -> list[Any]:
    """The members of a union, `Annotated` taken off."""
    if get_origin(kind) is Union or type(kind).__name__ == "UnionType":
        return [inner for each in get_args(kind) for inner in _flat(each)]
    return [kind.__origin__] if hasattr(kind, "__metadata__") else [kind]


def _bounds(field: FieldInfo) -> list[str]:
    given = list(field.metadata)
    for each in get_args(field.annotation):
        given += [rule for info in getattr(each, "__metadata__", ()) for rule in getattr(info, "metadata", [info])]
    signs = (("gt", "> "), ("ge", "\u2265 "), ("lt", "< "), ("le", "\u2264 "))
    return [f"{sign}{getattr(rule, name)}" for rule in given for name, sign in signs if hasattr(rule, name)]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "**required**"
    if field.default is None:
        return ""
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _text(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
