"""The chart as real Helm renders it, and the values that it is tested with."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import helm_python as helm
import yaml

Object = dict[str, Any]

CHART = Path(__file__).parents[2] / "helm" / "trunkline"
DEFAULTS: Object = yaml.safe_load((CHART / "values.yaml").read_text())
EXAMPLES = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((CHART / "examples").glob("*.yaml"))}
ON_KAFKA: Object = {"settings": {"kafka": {"bootstrap_servers": "kafka:9092"}}}
# What no example has, since it excludes something that one of them has.
VARIANTS: dict[str, Object] = {
    "defaults": {},
    "image-volume": {
        "model": {"from": "image", "image": {"reference": "registry.example.com/models:1", "mount": True}},
    },
    "init-container": {
        "model": {
            "from": "initContainer",
            "initContainer": {
                "image": "registry.example.com/fetch:1",
                "command": ["sh", "-c"],
                "args": ["fetch s3://models/ours.nemo /model/model.nemo"],
                "env": [{"name": "REGION", "value": "eu"}],
                "envFrom": [{"secretRef": {"name": "bucket"}}],
                "resources": {"limits": {"memory": "1Gi"}},
            },
        },
    },
    "hpa": {"autoscaling": {"enabled": True, "kind": "hpa", "maxReplicas": 40, "streamsPerWorker": 70}},
    "pod-monitor": {
        "monitoring": {
            "podMonitor": {
                "enabled": True,
                "labels": {"release": "monitoring"},
                "interval": "20s",
                "scrapeTimeout": "8s",
                "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
                "metricRelabelings": [{"sourceLabels": ["__name__"], "regex": "python_.*", "action": "drop"}],
            },
        },
    },
}
VALUES = EXAMPLES | VARIANTS


class Loader(yaml.CSafeLoader):
    """Refuses a key that stands twice in a map, of which an API server would take either."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"twice in a map: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


def render(values: Mapping[str, Any], name: str = "calls", namespace: str = "speech") -> dict[str, str]:
    """Template files with their text."""
    with helm.Chart.load(str(CHART)) as chart:
        return chart.render(dict(values), name=name, namespace=namespace)


def objects(values: Mapping[str, Any], **release: str) -> list[Object]:
    """All objects, hooks included."""
    return [
        document
        for name, text in render(values, **release).items()
        if name.endswith(".yaml")
        for document in yaml.load_all(text, Loader)
        if document
    ]


@cache
def rendered(name: str) -> tuple[Object, ...]:
    """The objects of one of VALUES; not to be changed."""
    return tuple(objects(VALUES[name]))


def only(found: tuple[Object, ...] | list[Object], kind: str, ending: str = "") -> Object:
    """The one object of a kind, or the one whose name ends so."""
    (one,) = [each for each in found if each["kind"] == kind and each["metadata"]["name"].endswith(ending)]
    return one


def kinds(found: tuple[Object, ...] | list[Object]) -> list[str]:
    return sorted(each["kind"] for each in found)


def pod_specs(found: tuple[Object, ...] | list[Object]) -> dict[str, Object]:
    """Every pod's spec by the name of what makes it."""
    specs = {}
    for each in found:
        if each["kind"] == "Pod":
            specs[each["metadata"]["name"]] = each["spec"]
        elif each["kind"] in ("StatefulSet", "Job"):
            specs[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
    return specs


def worker(found: tuple[Object, ...] | list[Object]) -> Object:
    """The worker's pod spec."""
    spec: Object = only(found, "StatefulSet")["spec"]["template"]["spec"]
    return spec
