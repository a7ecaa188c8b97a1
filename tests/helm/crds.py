"""Schemas of custom resources, for objects that Kubernetes' own schemas do not know.

`python -m tests.helm.crds CRD.yaml ...` writes them again, beside this file, from custom resource definitions:
KEDA 2.21.0 (its module's config/crd/bases) and Prometheus operator 0.85.0 (example/prometheus-operator-crd). They are
those without the descriptions, and refuse unknown keys, which an API server would drop in silence.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml

FOLDER = Path(__file__).with_suffix("")


def strict(schema: Any) -> Any:
    """The schema without descriptions, and with no keys allowed that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    # a property may be called description, so only texts are dropped
    kept = {
        key: strict(value)
        for key, value in schema.items()
        if not (key == "description" and isinstance(value, str)) and not key.startswith("x-kubernetes-validations")
    }
    if isinstance(kept.get("properties"), dict) and kept.get("type") == "object":
        open_ended = kept.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in kept
        if not open_ended:
            kept["additionalProperties"] = False
    return kept


def validate(document: dict[str, Any]) -> bool:
    """Whether there is a schema for this object; raises jsonschema.ValidationError where it does not fit."""
    file = FOLDER / f"{document['kind']}.json"
    if not file.exists():
        return False
    schema = json.loads(file.read_text())
    assert schema["apiVersion"] == document["apiVersion"]
    jsonschema.Draft202012Validator(schema["schema"]).validate(
        {key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata")}
    )
    return True


def main(paths: list[str]) -> None:
    for path in paths:
        definition = yaml.safe_load(Path(path).read_text())["spec"]
        (version,) = [each for each in definition["versions"] if each["storage"]]
        schema = strict(version["schema"]["openAPIV3Schema"])
        for key in ("apiVersion", "kind", "metadata", "status"):
            schema["properties"].pop(key, None)
        kind = definition["names"]["kind"]
        written = {"apiVersion": f"{definition['group']}/{version['name']}", "schema": schema}
        (FOLDER / f"{kind}.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
