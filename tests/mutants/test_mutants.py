"""The suite sees deliberate faults: three of them here, all of them with `make mutants`."""

import re
import subprocess
import sys
from difflib import unified_diff
from pathlib import Path

import pytest

from tests.mutants.run import HERE, ROOT, Mutant, apply, build, copy_tree

THREE = ("scalar-length-fast", "look-ahead-mixed", "scheduler-takes-twice")


def mutate(*names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "run.py"), "--faults-only", *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_three_faults_are_caught() -> None:
    """By the tests named in the patch, which pass without the fault: they belong to this suite."""
    pytest.importorskip("nemo", reason="the engine needs the worker extra (torch, NeMo)")
    done = mutate(*THREE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 caught" in done.stdout
    caught = re.findall(r"^([\w-]+): .+ \| (tests/\S+?)(?:\[.*\])? \| \d+$", done.stdout, re.MULTILINE)
    assert [name for name, _ in caught] == list(THREE)
    for name, by in caught:
        assert any(by.startswith(test) for test in Mutant.read(HERE / f"{name}.patch").tests)


def test_every_patch_names_its_fault_and_tests_and_still_applies(tmp_path: Path) -> None:
    copy_tree(tmp_path)
    for path in sorted(HERE.glob("*.patch")):
        mutant = Mutant.read(path)
        for test in mutant.tests:
            assert (ROOT / test.partition("::")[0]).is_file(), f"{path.name} names {test}"
        assert apply(mutant, tmp_path) == "", path.name
        assert apply(mutant, tmp_path, "--reverse") == "", path.name


def test_a_fault_in_the_operations_is_not_judged_uncompiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    copy_tree(tmp_path)
    for name, compiled in (("scheduler-takes-twice", False), ("product-drops-an-edge", True)):
        mutant = Mutant.read(HERE / f"{name}.patch")
        assert apply(mutant, tmp_path) == ""
        assert bool(build(mutant, tmp_path)) == compiled


def test_a_fault_that_no_test_sees_is_reported(tmp_path: Path) -> None:
    """A patch that changes nothing but a docstring survives, and the command fails."""
    patch = HERE / "scheduler-takes-twice.patch"
    name = "worker/batching/feed.py"
    source = (ROOT / name).read_text().splitlines(keepends=True)
    harmless = tmp_path / "harmless.patch"
    harmless.write_text(
        patch.read_text().partition("--- ")[0]
        + "".join(unified_diff(source, ['"""One stream."""\n', *source[1:]], f"a/{name}", f"b/{name}"))
    )
    stale = tmp_path / "stale.patch"
    stale.write_text(patch.read_text().replace("in_flight", "under_way"))
    done = mutate(str(harmless.with_suffix("")), str(stale.with_suffix("")))
    assert done.returncode == 1
    assert "SURVIVED" in done.stdout
    assert "NO LONGER APPLIES" in done.stdout
    assert "0 of 2 caught" in done.stdout
