"""A container of a pod as a process of this machine: variables, arguments and mounted files as a kubelet makes them.

Mounts lie below a folder of the test's, since this machine's own /etc and /tmp are not a pod's; so their paths are
translated, in variables, arguments and mounted texts alike. All else is as the pod has it.
"""

import base64
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]
# The ConfigMap or Secret of a name, as the API has it.
Lookup = Callable[[str, str], Object]


def contents(source: Object) -> dict[str, bytes]:
    """The files of a ConfigMap or a Secret."""
    if source["kind"] == "Secret":
        plain = {name: text.encode() for name, text in source.get("stringData", {}).items()}
        return {name: base64.b64decode(data) for name, data in source.get("data", {}).items()} | plain
    binary = {name: base64.b64decode(data) for name, data in source.get("binaryData", {}).items()}
    return {name: text.encode() for name, text in source.get("data", {}).items()} | binary


@dataclass(frozen=True)
class Container:
    """command: None where it is the image's. mounts: folders of this machine by their path in the container."""

    command: list[str] | None
    args: list[str]
    env: dict[str, str]
    mounts: Mapping[str, Path]

    def path(self, inside: str) -> Path:
        return Path(_translate(inside, self.mounts))


def place(spec: Object, name: str, root: Path, lookup: Lookup) -> Container:
    """The container `name` of a pod's spec, its mounts filled below `root`."""
    (container,) = [each for each in spec["containers"] if each["name"] == name]
    volumes = {each["name"]: each for each in spec.get("volumes", ())}
    mounts = {}
    for mount in container["volumeMounts"]:
        assert mount["name"] in volumes or mount["name"] == "model-cache", mount
        folder = root / mount["mountPath"].strip("/").replace("/", "-")
        folder.mkdir()
        mounts[mount["mountPath"]] = folder
    for mount in container["volumeMounts"]:
        for file, data in _files(volumes.get(mount["name"], {}), lookup).items():
            with suppress(UnicodeDecodeError):  # sound names no path
                data = _translate(data.decode(), mounts).encode()
            (mounts[mount["mountPath"]] / file).write_bytes(data)
    env = {}
    for source in container.get("envFrom", ()):
        assert source["secretRef"]["optional"], "the tests know none that must be there"
    for variable in container.get("env", ()):
        if "value" in variable:
            env[variable["name"]] = _translate(variable["value"], mounts)
        else:
            key = variable["valueFrom"]["secretKeyRef"]
            env[variable["name"]] = contents(lookup("Secret", key["name"]))[key["key"]].decode()
    command = container.get("command")
    return Container(
        None if command is None else [_translate(each, mounts) for each in command],
        [_translate(each, mounts) for each in container.get("args", ())],
        env,
        mounts,
    )


def _files(volume: Object, lookup: Lookup) -> dict[str, bytes]:
    for key, kind, named in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
        if key in volume and not volume[key].get("optional"):
            return contents(lookup(kind, volume[key][named]))
    return {}


def _translate(text: str, mounts: Mapping[str, Path]) -> str:
    """Paths at or below a mount; in one pass, since a folder's own path may begin like a mount's."""
    longest_first = sorted(mounts, key=len, reverse=True)
    pattern = r"(?<![\w./-])(" + "|".join(map(re.escape, longest_first)) + r")(?![\w.-])"
    return re.sub(pattern, lambda found: str(mounts[found[1]]), text)
