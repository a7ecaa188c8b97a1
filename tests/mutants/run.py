"""Does the suite notice? Apply one deliberate fault at a time to a copy of the tree and run the tests meant to see it.

A fault is a patch whose first lines say what is wrong and which tests must fail:

    Fault: every row keeps as many frames as the longest
    Tests: tests/engine/test_exact.py

    python tests/mutants/run.py [NAME ...]     without names, all of them

At the end the tests that caught them run on the tree as it is, and must pass there.

The tree itself is never touched. NeMo is imported once; every run is a fork of this process, so no module of the
project may be imported here.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = {"wire", "producer", "worker", "trunkline", "deploy", "demo", "bench", "tests"}
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "out", "node_modules")
SHIPPED = ("models", "calls", "eval")  # of demo/: large and read only
COMPILED = "\n+++ b/worker/engine/native/"  # the library of other sources is not loaded
LIMIT_S = 400
SOUND_LIMIT_S = 1800

PASSED, FAILED = 0, 1  # pytest's exit codes


@dataclass(frozen=True)
class Mutant:
    """A patch, the fault it makes, and the pytest arguments of the tests that must fail."""

    path: Path
    fault: str
    tests: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> "Mutant":
        """Raises ValueError for a patch that does not say its fault or its tests."""
        head = dict(re.findall(r"^(Fault|Tests): (.+)$", path.read_text().partition("\n--- ")[0], re.MULTILINE))
        if len(head) != 2:
            raise ValueError(f"{path.name} needs the lines 'Fault: ...' and 'Tests: ...' at its top")
        return cls(path, head["Fault"], tuple(head["Tests"].split()))


def copy_tree(into: Path) -> None:
    """What the tests need; large files of the demo as links."""
    shutil.copytree(ROOT, into, ignore=LEFT_OUT, dirs_exist_ok=True, copy_function=_copy)


def _copy(source: str, target: str) -> str:
    path = Path(source).relative_to(ROOT)
    if path.parts[0] == "demo" and path.parts[1] in SHIPPED:
        os.symlink(source, target)
    else:
        shutil.copy(source, target)
    return target


def apply(mutant: Mutant, tree: Path, *options: str) -> str:
    """Patch the copy; why it does not apply, or nothing."""
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run(
        ["git", "apply", "-v", *options, str(mutant.path)], cwd=tree, env=environment, capture_output=True, text=True
    )
    # outside the tree that it was made for git may pass over a patch without an error
    return "" if done.returncode == 0 and "Skipped" not in done.stderr else done.stderr.strip()


def build(mutant: Mutant, tree: Path) -> str:
    """Compile the operations again where the fault is in them; why it cannot be, or nothing."""
    if COMPILED not in mutant.path.read_text():
        return ""
    command = [sys.executable, "-m", "worker.engine.native"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    return "" if done.stdout.startswith("made ") else (done.stdout + done.stderr).strip()


def _tests(tree: Path, tests: Sequence[str], log: Path) -> None:
    """In a fork: pytest in `tree`, output to `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, HERE))]
    assert not OURS & set(sys.modules)
    import pytest
    from hypothesis import Phase, settings

    import worker

    assert Path(worker.__file__).is_relative_to(tree)
    # the first counter-example will do: making it small takes the most time
    settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutants")
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=120", "--tb=line"]
    sys.exit(int(pytest.main([*options, *tests])))


def run_tests(tree: Path, tests: Sequence[str], limit_s: float = LIMIT_S) -> tuple[int | None, str]:
    """pytest's exit code (None: it took too long) and what it printed."""
    log = tree / "pytest.out"
    child = multiprocessing.get_context("fork").Process(target=_tests, args=(tree, tests, log))
    child.start()
    child.join(limit_s)
    if child.is_alive():
        child.kill()
        child.join()
        return None, log.read_text()
    return child.exitcode, log.read_text()


def judge(mutant: Mutant) -> tuple[bool, str]:
    """Whether a test caught the fault, and which one (or what went wrong)."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        copy_tree(tree)
        if problem := apply(mutant, tree):
            return False, f"THE PATCH NO LONGER APPLIES: {problem}"
        if problem := build(mutant, tree):
            return False, f"NOT COMPILED: {problem}"
        code, output = run_tests(tree, mutant.tests)
    failed = re.search(r"^FAILED (.+?)(?: - |$)", output, re.MULTILINE)
    if code == FAILED and failed:
        return True, failed[1]
    if code == PASSED:
        return False, "SURVIVED"
    return False, f"NO TEST FAILED, BUT PYTEST ENDED WITH {code}:\n{output[-2000:]}"


def sound(tests: Sequence[str]) -> bool:
    """The same tests pass on the tree as it is: else their failing said nothing."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve()
        copy_tree(tree)
        code, output = run_tests(tree, tests, SOUND_LIMIT_S)
    if code != PASSED:
        print(f"these tests must pass without any fault:\n{output[-4000:]}")
    return code == PASSED


def preload() -> None:
    """What takes long to import, before the first fork."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads does not outlive a fork
    import torch

    torch.set_num_threads(1)
    import nemo.collections.asr  # noqa: F401


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Apply deliberate faults, one at a time; the tests must catch each.")
    parser.add_argument("names", nargs="*", help="patches under tests/mutants, without .patch; default all")
    parser.add_argument("--faults-only", action="store_true", help="do not run the tests without a fault at the end")
    options = parser.parse_args(arguments)
    paths = [HERE / f"{name}.patch" for name in options.names] or sorted(HERE.glob("*.patch"))
    mutants = [Mutant.read(path) for path in paths]
    if any(test.startswith("tests/engine") for mutant in mutants for test in mutant.tests):
        preload()
    caught_by: list[str] = []
    print("fault | test that caught it | seconds\n--- | --- | ---", flush=True)
    for mutant in mutants:
        began = time.monotonic()
        caught, by = judge(mutant)
        caught_by += [by] if caught else []
        print(f"{mutant.path.stem}: {mutant.fault} | {by} | {time.monotonic() - began:.0f}", flush=True)
    print(f"{len(caught_by)} of {len(mutants)} caught", flush=True)
    fine = options.faults_only or sound(sorted(set(caught_by)))
    return 0 if fine and len(caught_by) == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
