"""The steps of a Dockerfile's build stage run on this machine: no image is built where there is no Docker."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
# How pip reaches an index from here; nothing else of this machine's environment is handed on.
NETWORK = re.compile(r"^(PIP_|SSL_|REQUESTS_)|_proxy$", re.IGNORECASE)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Keyword and rest of each instruction, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", text)
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, _, rest = line.partition(" ")
        found.append((keyword, rest.strip()))
    return found


def stages(path: Path) -> list[list[tuple[str, str]]]:
    """Instructions by stage; what stands before the first is left out."""
    found: list[list[tuple[str, str]]] = []
    for keyword, rest in instructions(path):
        if keyword == "FROM":
            found.append([])
        if found:
            found[-1].append((keyword, rest))
    return found


def build(path: Path, folder: Path, arguments: Mapping[str, str] | None = None) -> Path:
    """Run the build stage in `folder`, which is to be empty; return what stands for /opt/trunkline.

    What it takes from Debian has to be on this machine. Paths below /opt lie in the folder. `arguments` stand in for
    defaults of ARG, or are further variables. Raises subprocess.CalledProcessError.
    """
    made, source, home = folder / "opt" / "trunkline", folder / "src", folder / "home"
    for each in (made.parent, source, home):
        each.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if NETWORK.search(name)}
    environment |= {"HOME": str(home), "PATH": f"{_python(folder)}:/usr/local/bin:/usr/bin:/bin", **(arguments or {})}
    for keyword, rest in stages(path)[0]:
        if keyword == "ARG":
            name, _, default = rest.partition("=")
            environment.setdefault(name, default)
        elif keyword == "COPY":
            *files, target = rest.split()
            for file in files:
                _copy(ROOT / file, source / target / (Path(file).name if target.endswith("/") else ""))
        elif keyword == "RUN" and not rest.startswith("apt-get "):
            command = rest.replace("/opt/", f"{made.parent}/")
            subprocess.run(["sh", "-ec", command], cwd=source, env=environment, check=True, stdin=subprocess.DEVNULL)
    return made


def _python(folder: Path) -> Path:
    """A folder with `python`, as the base image has it: this interpreter without its environment."""
    programs = folder / "base"
    programs.mkdir()
    (programs / "python").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    return programs


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(
            source, target, ignore=shutil.ignore_patterns("__pycache__", "operations-*"), dirs_exist_ok=True
        )
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
