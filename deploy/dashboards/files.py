"""The dashboards as files of the chart."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.dashboards import delivery, service, worker

FOLDER = Path(__file__).parents[2] / "helm" / "trunkline" / "files" / "dashboards"
BOARDS = {"service.json": service.build, "worker.json": worker.build, "delivery.json": delivery.build}


def render() -> dict[str, str]:
    """Text by file name."""
    return {
        name: json.dumps(build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n" for name, build in BOARDS.items()
    }
