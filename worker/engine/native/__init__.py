"""Trunkline's own operations for processors, `torch.ops.trunkline`: C++, compiled where they run.

    python -P -m worker.engine.native

compiles them, once: half a minute, with a C++ compiler. What it makes lies beside the sources of the package that is
installed (`-P`: not of the folder that one stands in), and is only loaded by the PyTorch that it was made for, while
the sources are the same. Without it the engine computes with PyTorch's operations, and is slower.
"""

import hashlib
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("*.cpp"))
HEADERS = sorted(FOLDER.glob("*.h"))
FLAGS = ("-std=c++20", "-O3", "-mavx2", "-mfma", "-fopenmp", "-fPIC")
COMMAND = f"python -P -m {__name__}"
DEEPEST_HEAD = 128  # of `attend`
FOR = "x86-64 with AVX2, without AVX-512"  # what they were measured on


def compilable() -> bool:
    """Whether this machine can compile the operations, be they for others of its kind."""
    return platform.machine() == "x86_64"


def supported() -> bool:
    """Whether this is a processor that the operations are `FOR`."""
    return compilable() and torch.backends.cpu.get_cpu_capability() == "AVX2"


def library() -> Path:
    """Where the compiled operations of these sources and this PyTorch are, or would be."""
    made_of = hashlib.sha256(torch.__version__.encode())
    for path in (Path(__file__), *SOURCES, *HEADERS):
        made_of.update(path.read_bytes())
    return FOLDER / f"operations-{made_of.hexdigest()[:12]}.so"


@cache
def loaded() -> bool:
    """Load the operations, once a process. False: there are none here, and the log says why."""
    if not supported():
        return False
    path = library()
    try:
        torch.ops.load_library(path)
    except OSError as error:
        why = f"cannot be loaded and is to be deleted ({error})" if path.exists() else "is not there"
        log.warning("the engine is slower than it could be: %s %s; `%s` makes it", path, why, COMMAND)
        return False
    return True


def build() -> bool:
    """Compile what `library` names, unless it is there, and delete what was compiled before. False: there was nothing
    to do. Several processes may at once. Raises RuntimeError with what the compiler says, and OSError."""
    from torch.utils.cpp_extension import include_paths, library_paths

    path = library()
    if path.exists():
        return False
    before = list(FOLDER.glob("operations-*.so"))
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix="operations-") as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in SOURCES]
        for source, compiled in zip(SOURCES, objects, strict=True):
            _compiler(*FLAGS, *(f"-isystem{path}" for path in include_paths()), "-c", source, "-o", compiled)
        # linked without -fopenmp: not to the compiler's OpenMP, a second pool of threads, but to PyTorch's own
        made = Path(folder) / path.name
        libraries = (*(f"-L{path}" for path in library_paths()), "-ltorch_cpu", "-lc10")
        _compiler("-shared", *objects, *libraries, "-o", made)
        # in a process of its own, with all that it calls: an operation cannot be registered twice
        load = f"import torch; torch.ops.load_library({str(made)!r})"
        _run(sys.executable, "-c", load, environment={"LD_BIND_NOW": "1"})
        made.replace(path)
    for older in before:
        older.unlink(missing_ok=True)
    return True


def _compiler(*arguments: str | Path) -> None:
    name = os.environ.get("CXX", "c++")
    try:
        _run(name, *arguments)
    except OSError as error:
        said = f"{name}: {error.strerror}"
        raise RuntimeError(f"no C++ compiler ({said}); install g++, or name another one in CXX") from error


def _run(*command: str | Path, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
