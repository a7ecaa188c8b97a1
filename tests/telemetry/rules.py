"""The chart's alerts as data, and as a test can wait for them."""

import re
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[2] / "helm" / "trunkline" / "files" / "rules" / "trunkline.yaml"
SECONDS = {"s": 1, "m": 60, "h": 3600}


def alerts() -> dict[str, dict[str, Any]]:
    """By name."""
    (group,) = yaml.safe_load(FILE.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def hurried(factor: int) -> str:
    """The same rules with every time so many times shorter: windows and `for`, but not the thresholds."""

    def shorter(text: str) -> str:
        number, unit = int(text[:-1]), text[-1]
        return f"{number * SECONDS[unit] // factor}s"

    rules = []
    for rule in alerts().values():
        expr = re.sub(r"\[(\d+[smh])\]", lambda found: f"[{shorter(found[1])}]", rule["expr"])
        rules.append(rule | {"expr": expr, "for": shorter(rule["for"])})
    return yaml.safe_dump({"groups": [{"name": "hurried", "interval": "500ms", "rules": rules}]})
