"""One installation of the chart, in a namespace of its own that enforces Pod Security `restricted`."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

from tests.helm.chart import CHART, Object
from tests.kubernetes.cluster import Cluster, ClusterError

RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
NAME = "calls"
PATIENCE_S = 60.0


class Release:
    """`values` are the chart's; `namespace` is there already."""

    def __init__(self, cluster: Cluster, namespace: str, values: Object) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.file = cluster.folder / f"{namespace}.yaml"
        self.write(values)

    def write(self, values: Object) -> None:
        self.file.write_text(yaml.safe_dump(values))

    def helm(self, command: str, *arguments: str) -> str:
        return self.cluster.helm(*command.split(), NAME, *arguments, f"--namespace={self.namespace}")

    def install(self) -> str:
        return self.helm("install", str(CHART), f"--values={self.file}", "--wait", "--timeout=60s")

    def upgrade(self, *flags: str, timeout_s: int = 60) -> str:
        return self.helm("upgrade", str(CHART), f"--values={self.file}", "--wait", f"--timeout={timeout_s}s", *flags)

    def template(self) -> str:
        return self.helm("template", str(CHART), f"--values={self.file}")

    def get(self, kind: str, name: str | None = None) -> Any:
        """One object, or all of a kind."""
        found = self.cluster.get(kind, *filter(None, [name]), f"--namespace={self.namespace}")
        return found if name else found["items"]

    def kubectl(self, *arguments: str) -> str:
        return self.cluster.kubectl(f"--namespace={self.namespace}", *arguments)

    @property
    def stateful_set(self) -> Object:
        (found,) = self.get("statefulsets")
        return dict(found)

    def workers(self) -> list[Object]:
        """The workers' pods by ordinal."""
        pods = self.get("pods")
        pods = [each for each in pods if each["metadata"]["labels"].get("app.kubernetes.io/component") == "worker"]
        return sorted(pods, key=lambda each: int(each["metadata"]["name"].rpartition("-")[2]))

    def ready(self) -> int:
        return sum(
            condition["status"] == "True"
            for pod in self.workers()
            for condition in pod.get("status", {}).get("conditions", ())
            if condition["type"] == "Ready"
        )

    def hooks(self) -> list[Object]:
        """As the release keeps them; those of a test are not in the API before it runs."""
        return [each for each in yaml.safe_load_all(self.helm("get hooks")) if each]  # type: ignore[arg-type]


def eventually(holds: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Raises AssertionError when it does not come to hold."""
    deadline = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < deadline, f"not after {patience_s:.0f} s: {what}"
        time.sleep(0.2)


@contextmanager
def release(
    cluster: Cluster, values: Object, secrets: Mapping[str, Mapping[str, str]] | None = None
) -> Iterator[Release]:
    """In a new namespace with a claim `models`, and secrets by name; all of it deleted afterwards."""
    namespace = f"speech-{uuid.uuid4().hex[:6]}"
    cluster.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": RESTRICTED}},
        *_volumes(namespace),
        *(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": namespace},
                "stringData": dict(data),
            }
            for name, data in (secrets or {}).items()
        ),
    )
    made = Release(cluster, namespace, values)
    try:
        # a controller makes it, and without it no pod is let in
        eventually(lambda: "default" in made.kubectl("get", "serviceaccounts", "--output=name"), "a default account")
        yield made
    finally:
        try:
            made.helm("uninstall", "--ignore-not-found", "--wait", "--timeout=60s")
        except ClusterError as error:
            print(error)
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")
        cluster.kubectl("delete", "persistentvolumes", f"--selector=of={namespace}", "--wait=false")


def _volumes(namespace: str) -> list[Object]:
    """A volume with the claim `models`, and two for claims of the storage class `fast`."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models", "namespace": namespace},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": f"models-{namespace}",
        },
    }
    return [claim, _volume(f"models-{namespace}", "ReadOnlyMany", "", namespace)] + [
        _volume(f"fast-{number}-{namespace}", "ReadWriteOnce", "fast", namespace) for number in (0, 1)
    ]


def _volume(name: str, mode: str, storage_class: str, namespace: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"of": namespace}},
        "spec": {
            "accessModes": [mode],
            "storageClassName": storage_class,
            "capacity": {"storage": "100Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"/srv/{name}"},
        },
    }


def events(made: Release) -> str:
    """What happened in the namespace, for a failing test's message."""
    return json.dumps([each.get("message") for each in made.get("events")], indent=1)
