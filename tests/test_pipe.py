"""A reader of the output that goes, as `| head` does, is not a fault of the command."""

import os
import signal
import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", [["worker", "config"], ["doctor", "--json"]])
def test_a_reader_that_has_gone_ends_the_command_without_a_traceback(command: list[str]) -> None:
    pytest.importorskip("torch", reason="the worker extra")
    reads, writes = os.pipe()
    os.close(reads)
    nowhere = {"TRUNKLINE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "TRUNKLINE_MODEL__SOURCE": "none.nemo"}
    done = subprocess.run(
        [sys.executable, "-m", "trunkline", *command],
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | nowhere,
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
