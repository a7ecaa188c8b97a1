"""What of the chart follows from other files: the schema of `settings` and of their names, and the table in its README.

`python -m deploy.chart` writes both again. The schema of the worker's settings comes from the settings model, so that a
mistyped setting is refused before anything is installed; the table from values.yaml and the schema's descriptions.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from worker import sources
from worker.settings import Settings

CHART = Path(__file__).parents[1] / "helm" / "trunkline"
SCHEMA, VALUES, README = CHART / "values.schema.json", CHART / "values.yaml", CHART / "README.md"
BEGIN, END = "<!-- table: make chart -->", "<!-- end of table -->"

# What the chart sets itself, and what would put a secret into a config map.
NOT_VALUES = frozenset(
    {
        "kafka.sasl_password",
        "model.source",
        "state.redis_password",
        "telemetry.host",
        "telemetry.port",
    }
)

# The worker also takes `user:password@`, but this file becomes a config map.
REDIS_URL = r"^(rediss?://([^\s/?#@:\[\]]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?(/[0-9]*)?|unix:///[^\s?#@]+)$"

Tree = dict[str, Any]


def settings_schema() -> Tree:
    """JSON schema of the settings file, every key described and no other allowed."""
    model = Settings.model_json_schema()
    sections = model.pop("$defs")
    described: Tree = {}
    for name, field in model["properties"].items():
        reference = field.pop("$ref", "").rpartition("/")[2]
        if not reference:
            described[name] = _field(name, field)
            continue
        rows = sections[reference]["properties"]
        kept = {key: _field(key, row) for key, row in rows.items() if f"{name}.{key}" not in NOT_VALUES}
        described[name] = {
            "description": f"Section `{name}` of docs/settings.md.",
            "type": "object",
            "additionalProperties": False,
            "properties": kept,
        }
    described["kafka"]["required"] = ["bootstrap_servers"]
    described["kafka"]["properties"]["bootstrap_servers"]["pattern"] = r"^[^,:\s]+:[0-9]+(,[^,:\s]+:[0-9]+)*$"
    url = described["state"]["properties"]["redis_url"]
    url["description"] += " Without user and password, which come from `secrets.redis`."
    url["pattern"] = REDIS_URL
    return {
        "description": "The workers' settings file: docs/settings.md has them all. The chart sets the address of "
        "metrics and the model's source; passwords come from `secrets`.",
        "type": "object",
        "additionalProperties": False,
        "required": ["kafka"],
        "properties": described,
    }


def _field(name: str, field: Tree) -> Tree:
    text = field.pop("description", None) or f"Name of the topic, here `{field.get('default')}` if not given."
    for key in ("title", "default", "format", "writeOnly"):
        field.pop(key, None)
    return {"description": text, **field}


def variable_schema() -> Tree:
    """Names of extraEnv: of those that begin as the worker's do, only the worker's."""
    known = ["TRUNKLINE_CONFIG", *map(sources.variable, sources.names())]
    text = "Name of the variable."
    return {
        "description": text,
        "type": "string",
        "minLength": 1,
        "if": {"pattern": "^TRUNKLINE_"},
        "then": {"enum": known},
    }


def flag_schema() -> Tree:
    """An entry of extraArgs: a flag of the worker's but those for passwords, with or without its value; or a value."""
    known = ["config", *(name for name in sources.names() if not name.endswith("_password"))]
    flags = "|".join(map(re.escape, known))
    return {"type": "string", "if": {"pattern": "^--"}, "then": {"pattern": f"^--({flags})(=|$)"}}


def schema_text() -> str:
    """values.schema.json as it should be: `settings` and what else names settings are not written by hand."""
    schema = json.loads(SCHEMA.read_text())
    schema["properties"]["settings"] = settings_schema()
    schema["properties"]["extraEnv"]["items"]["properties"]["name"] = variable_schema()
    schema["properties"]["extraArgs"]["items"] = flag_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def readme_text() -> str:
    """README.md as it should be: its table made again."""
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}{END}{after}"


def table() -> str:
    """A row for every value; a map that is passed on to Kubernetes is one value."""
    lines = ["| value | default | |", "|---|---|---|"]
    lines += _rows("", json.loads(SCHEMA.read_text()), yaml.safe_load(VALUES.read_text()))
    return "\n".join(lines) + "\n"


def _rows(prefix: str, schema: Tree, defaults: Tree) -> list[str]:
    rows = []
    for name, field in schema["properties"].items():
        if prefix + name == "global":
            continue
        text = field["description"].replace("|", "\\|")
        given: Any = defaults.get(name)
        if prefix + name == "settings":
            rows.append(f"| `settings` | {_default(given)} | {text} |")
        elif "properties" in field:
            rows.append(f"| **`{prefix}{name}`** | | {text} |")
            rows += _rows(f"{prefix}{name}.", field, given)
        else:
            values = ", ".join(f"`{value}`" for value in field.get("enum", ()) if f"`{value}`" not in text)
            rows.append(f"| `{prefix}{name}` | {_default(given)} | {text}{f' {values}.' if values else ''} |")
    return rows


def _default(value: Any) -> str:
    if value == "" or value is None:
        return ""
    return f"`{json.dumps(value)}`" if isinstance(value, dict | list | bool) else f"`{value}`"


if __name__ == "__main__":
    SCHEMA.write_text(schema_text())
    README.write_text(readme_text())
