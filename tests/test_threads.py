"""How many threads a model step takes where the settings name none: half of what its container may use."""

import subprocess
import sys

from tests.conftest import require

# A machine of eight cores, and the file of control groups that Linux shows in a container.
SCRIPT = """
import os, sys
from pathlib import Path
from worker.starting import half_of_the_cores
os.cpu_count = lambda: 8
os.sched_getaffinity = lambda process: set(range(8))
for quota in sys.argv[1:]:
    Path("/sys/fs/cgroup/cpu.max").write_text(f"{quota} 100000\\n")
    print(half_of_the_cores())
"""
OWN_MOUNTS = ("unshare", "--mount", "--map-root-user", "sh", "-ec", 'mount -t tmpfs none /sys/fs/cgroup; "$@"', "sh")


def test_half_of_the_cores_that_the_container_may_use_at_least_one():
    require(subprocess.run([*OWN_MOUNTS, "true"]).returncode == 0, "this user may not mount")
    wanted = {"max": 4, "400000": 2, "50000": 1, "1600000": 4}
    command = [*OWN_MOUNTS, sys.executable, "-c", SCRIPT, *wanted]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [int(line) for line in found.split()] == list(wanted.values())
