"""The compiled operations: made once, by several processes if need be, loaded only where they fit, and done without."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import require
from worker.engine import native
from worker.engine.fast.linear import Linear
from worker.engine.native.__main__ import main

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
LOADS = """
import torch
from worker.engine import native
from worker.engine.fast.linear import Linear
assert native.loaded()
multiply = Linear(torch.arange(6.0).view(2, 3), torch.ones(2), torch.float32)
print(native.library(), multiply(torch.tensor([1.0, 2.0, 3.0])).tolist())
"""


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package's folder in a copy of the worker, nothing compiled; this process, too, builds and loads there now."""
    worker = native.FOLDER.parents[1]
    shutil.copytree(worker, tmp_path / "worker", ignore=shutil.ignore_patterns("operations-*", "__pycache__"))
    folder = tmp_path / native.FOLDER.relative_to(worker.parent)
    monkeypatch.setattr(native, "FOLDER", folder)
    monkeypatch.setattr(native, "SOURCES", sorted(folder.glob("*.cpp")))
    monkeypatch.setattr(native, "HEADERS", sorted(folder.glob("*.h")))
    native.loaded.cache_clear()
    yield folder
    native.loaded.cache_clear()


def python(tree: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *arguments], cwd=tree, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(not native.supported(), reason=f"the operations are for {native.FOR}")
def test_two_compile_at_once_and_another_process_loads_it(copy: Path, tmp_path: Path) -> None:
    require(COMPILER, "a C++ compiler")
    older = copy / "operations-0123456789ab.so"
    older.touch()
    both = [python(tmp_path, "-m", native.__name__) for _ in range(2)]
    said = [each.communicate()[0] for each in both]
    assert [each.returncode for each in both] == [0, 0]
    (made,) = copy.glob("operations-*")
    assert said == [f"made {made}\n"] * 2
    again = python(tmp_path, "-m", native.__name__)
    assert again.communicate()[0] == f"there is {made}\n"
    assert python(tmp_path, "-c", LOADS).communicate()[0] == f"{made} [9.0, 27.0]\n"


@pytest.mark.usefixtures("copy")
def test_they_are_of_their_sources_and_of_the_pytorch_that_they_were_made_for(monkeypatch):
    names = [native.library()]
    assert native.library() == names[0]
    for source in (*native.SOURCES, *native.HEADERS):
        source.write_text(source.read_text() + "// another\n")
        names.append(native.library())
    monkeypatch.setattr(torch, "__version__", "0")
    names.append(native.library())
    assert len(set(names)) == len(names) > 3


@pytest.mark.usefixtures("copy")
def test_what_is_there_is_not_made_again(monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent")
    native.library().touch()
    assert not native.build()


def test_a_missing_compiler_is_named_and_what_to_do(copy, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nonexistent")
    with pytest.raises(RuntimeError, match=r"/nonexistent: No such file.*install g\+\+"):
        native.build()
    monkeypatch.setattr(native, "supported", lambda: True)
    assert main([]) == 1
    said = capsys.readouterr().err
    assert "the worker is slower" in said
    assert said.count("\n") == 1
    assert not list(copy.glob("operations-*"))


def test_what_the_compiler_says_is_told(copy):
    require(COMPILER, "a C++ compiler")
    for source in native.SOURCES:
        source.write_text("#error a fault in the source\n")
    with pytest.raises(RuntimeError, match=r"failed:(.|\n)*a fault in the source"):
        native.build()
    assert not list(copy.glob("operations-*"))


@pytest.mark.usefixtures("copy")
def test_for_others_it_is_compiled_on_any_processor_of_their_kind(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for machine, here, for_others in (("x86_64", 0, 1), ("aarch64", 0, 0)):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert not native.loaded()
        assert main([]) == here
        assert "nothing to compile" in capsys.readouterr().out
        assert main(["--any-processor"]) == for_others


@pytest.mark.usefixtures("copy")
@pytest.mark.parametrize(("content", "says"), [(None, "is not there"), (b"no library", "is to be deleted")])
def test_without_them_it_is_said_once_and_the_engine_computes(content, says, monkeypatch, caplog):
    monkeypatch.setattr(native, "supported", lambda: True)
    if content is not None:
        native.library().write_bytes(content)
    weight, bias, x = torch.randn(20, 7), torch.randn(20), torch.randn(3, 7)
    for _ in range(2):
        torch.testing.assert_close(Linear(weight, bias, torch.float32)(x), F.linear(x, weight, bias))
    (said,) = [record.getMessage() for record in caplog.records if record.name == native.__name__]
    assert says in said
    assert native.COMMAND in said
    assert str(native.library()) in said
