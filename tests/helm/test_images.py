"""No image is built here. The files are linted, and what their steps do is tried as far as it goes without Docker."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import require
from tests.helm.chart import DEFAULTS
from tests.helm.dockerfile import ROOT, build, stages

FILES = sorted((ROOT / "deploy").glob("*.Dockerfile"))
WORKERS = [path for path in FILES if path.name.startswith("worker")]
HADOLINT = Path(sys.executable).with_name("hadolint")


def test_there_are_three():
    assert [path.name for path in FILES] == ["producer.Dockerfile", "worker-cpu.Dockerfile", "worker.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_an_image_is_lint_free_and_small_and_runs_as_nobody_special(path):
    done = subprocess.run([HADOLINT, "--failure-threshold", "style", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    building, final = stages(path)
    # compilers, caches and sources stay in the first stage
    assert [rest for keyword, rest in final if keyword == "COPY"] == ["--from=build /opt/trunkline /opt/trunkline"]
    said = dict(final)
    assert said["USER"] == str(DEFAULTS["podSecurityContext"]["runAsUser"])
    assert said["FROM"] == building[0][1].removesuffix(" AS build") == "${BASE}", "both can be pinned at once"
    assert "HEALTHCHECK" in said
    assert said["ENTRYPOINT"] == '["trunkline"]', "the chart gives arguments only"
    for rest in (rest for keyword, rest in building if keyword == "COPY"):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
    installs = [rest for keyword, rest in building if keyword == "RUN" and "pip install" in rest]
    assert all("--no-cache-dir" in rest for rest in installs)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_everything_that_is_copied_is_let_in_and_nothing_else_is(path):
    let_in = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for keyword, rest in stages(path)[0] if keyword == "COPY" for source in rest.split()[:-1]]
    assert all(any(Path(source).match(pattern) for pattern in let_in) for source in copied)


def _pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^ ;]+)", text, re.MULTILINE))


def test_the_image_without_cuda_has_the_locks_packages_but_cudas(tmp_path):
    (path,) = [path for path in FILES if path.name == "worker-cpu.Dockerfile"]
    (wheel, rest) = [r for k, r in stages(path)[0] if k == "RUN" and "pip install" in r and "deploy/" in r]
    (tmp_path / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "worker.lock", tmp_path / "deploy")

    def shell(command: str) -> str:
        return subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    lock = (ROOT / "deploy" / "worker.lock").read_text()
    shell(rest.partition(" && ")[0])
    kept = (tmp_path / "deploy" / "cpu.lock").read_text()
    left_out = set(_pins(lock)) - set(_pins(kept))
    assert {"torch", "triton", "cuda-toolkit", "nvidia-cudnn-cu13"} <= left_out
    assert all(name in ("torch", "triton", "cuda-toolkit") or name.startswith("nvidia-") for name in left_out)
    assert kept.count("--hash") == sum(
        part.count("--hash") for part in re.split(r"\n(?! )", lock) if part.partition("==")[0] not in left_out
    )
    wanted = re.search(r'"(torch==.*)"', wheel)
    assert wanted is not None
    (label,) = [rest for keyword, rest in stages(path)[0] if keyword == "ARG" and rest.startswith("TORCH_LABEL=")]
    assert shell(f'{label}; echo "{wanted[1]}"').strip() == f"torch=={_pins(lock)['torch']}+cpu"


@pytest.mark.parametrize("path", WORKERS, ids=lambda path: path.name)
def test_the_health_check_asks_the_worker_and_believes_it(path):
    from prometheus_client import CollectorRegistry

    from worker.telemetry.server import TelemetryServer

    check = dict(stages(path)[1])["HEALTHCHECK"].partition("CMD ")[2]
    command = [sys.executable, *json.loads(check)[1:]]
    problem: list[str | None] = [None]
    server = TelemetryServer("127.0.0.1", 0, CollectorRegistry(), lambda: problem[0], lambda: None, lambda: None)
    server.start()
    environment = os.environ | {"TRUNKLINE_TELEMETRY__PORT": str(server.port)}
    try:
        assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
        problem[0] = "the engine stands still"
        assert subprocess.run(command, env=environment, capture_output=True).returncode != 0
    finally:
        server.stop()
    assert subprocess.run(command, env=environment, capture_output=True).returncode != 0, "nobody listens"


@pytest.mark.slow
@pytest.mark.skipif(
    "TRUNKLINE_TESTS_IMAGES" not in os.environ, reason="make test-images: installs gigabytes from the package index"
)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_steps_run_in_a_clean_folder_and_give_a_program_that_works(path, tmp_path):
    """For the image without CUDA PyTorch comes from the index of all else, and borrows CUDA from this environment."""
    require(path not in WORKERS or shutil.which("c++"), "a C++ compiler, Debian's g++ say")
    without_cuda = path.name == "worker-cpu.Dockerfile"
    arguments = {}
    if without_cuda:
        told = subprocess.run(
            [sys.executable, "-m", "pip", "help", "install"], capture_output=True, text=True, check=True
        )
        (default,) = re.findall(r"Package Index \(default\s+(\S+)\)", told.stdout)
        index = os.environ.get("PIP_INDEX_URL", default)
        cuda = ":".join(map(str, Path(sysconfig.get_path("purelib")).glob("nvidia/*/lib")))
        arguments = {"TORCH_INDEX": index, "TORCH_LABEL": "", "LD_LIBRARY_PATH": cuda}
    made = build(path, tmp_path, arguments)
    clean = {"PATH": f"{made}/bin", "HOME": str(tmp_path / "home")}
    for command, said in (
        (["trunkline", "--version"], "trunkline 0.1.0"),
        (["trunkline", "produce", "--help"], "usage: trunkline produce"),
        (["trunkline", "topics", "--help"], "usage: trunkline topics"),
        (["trunkline", "worker", "--help"], "--model.source" if path in WORKERS else "which is not installed"),
    ):
        done = subprocess.run(
            [f"{made}/bin/{command[0]}", *command[1:]], env=clean, capture_output=True, text=True, cwd="/"
        )
        assert said in done.stdout + done.stderr
    if path in WORKERS and platform.machine() == "x86_64":
        borrowed = clean | {"LD_LIBRARY_PATH": arguments.get("LD_LIBRARY_PATH", "")}
        show = "from worker.engine import native as n; print(n.library().exists(), n.loaded() == n.supported())"
        done = subprocess.run([f"{made}/bin/python", "-c", show], env=borrowed, capture_output=True, text=True, cwd="/")
        assert done.stdout == "True True\n", done.stderr
    packages = subprocess.run([f"{made}/bin/pip", "check"], env=clean, capture_output=True, text=True, cwd="/")
    asked_for = re.compile(r"torch \S+ requires (triton|cuda-toolkit|nvidia-\S+), which is not installed\.")
    missing = [line for line in packages.stdout.splitlines() if not (without_cuda and asked_for.fullmatch(line))]
    assert missing in ([], ["No broken requirements found."])
