"""The control plane leaves nothing behind, however its starter ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.support import ROOT
from tests.kubernetes.cluster import Cluster, ClusterError
from tests.kubernetes.release import eventually

SCRIPT = """
import pathlib, sys, time
from tests.kubernetes.cluster import Cluster
with Cluster(pathlib.Path(sys.argv[1])) as cluster:
    print(cluster.folder, flush=True)
    time.sleep(600)
"""


def _belonging_to(folder: Path) -> list[str]:
    """Command lines of processes that name a folder or work in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(folder) in line or str(folder) in os.readlink(process / "cwd"):
                found.append(line)
        except OSError:
            continue  # it has just ended
    return found


def test_a_killed_starter_takes_the_whole_control_plane_with_it():
    binaries = os.environ["TRUNKLINE_TESTS_KUBERNETES"]
    command = [sys.executable, "-c", SCRIPT, binaries]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        folder = Path(starter.stdout.readline().strip())
        assert len(_belonging_to(folder)) >= 5, "etcd, API server, controllers, scheduler, kwok"
        starter.send_signal(signal.SIGKILL)
    eventually(lambda: not _belonging_to(folder), "all have ended", 30)
    eventually(lambda: not folder.exists(), "its folder is deleted", 10)


def test_one_that_does_not_come_up_says_what_the_programs_said_and_is_stopped(tmp_path):
    for program in Path(os.environ["TRUNKLINE_TESTS_KUBERNETES"]).iterdir():
        (tmp_path / program.name).symlink_to(program)
    (tmp_path / "kube-apiserver").unlink()
    (tmp_path / "kube-apiserver").write_text("#!/bin/sh\necho no such luck\nexit 1\n")
    (tmp_path / "kube-apiserver").chmod(0o755)
    broken = Cluster(tmp_path)
    with pytest.raises(ClusterError, match="no such luck"), broken:
        pass
    assert _belonging_to(broken.folder) == []
