"""`produce`, `tail`, `topics` and the worker against a secured cluster, and what each says when it is not let in."""

import os
import subprocess
import sys
import time

import pytest

from deploy.worker import LocalWorker
from tests.integration.conftest import ONE_THREAD
from tests.integration.security.broker import Secure
from tests.integration.support import CALLS, MODEL, ROOT
from trunkline.cli import main
from wire import Topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

# What is wrong: listener, what is given, what is said.
FAULTS = {
    "password": ("SECURE", {"sasl_username": "scram", "sasl_password": "wrong-one"}, "refuses the credentials of user"),
    "name": ("OTHERNAME", {}, "is not for '127.0.0.1'"),
    "expired": ("EXPIRED", {}, "has expired"),
    "plain": ("TLS", {"security_protocol": "PLAINTEXT"}, "this port seems to want TLS"),
}


def given(secure: Secure, fault: str) -> tuple[str, dict[str, str]]:
    listener, options, _ = FAULTS[fault]
    protocol = "SASL_SSL" if listener == "SECURE" else "SSL"
    known = {"security_protocol": protocol, "ssl_ca_file": secure.ca} | options
    if known["security_protocol"] == "PLAINTEXT":
        del known["ssl_ca_file"]
    return secure.kafka.address(listener), known


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "command",
    [
        ["produce", str(CALLS / "call-00.flac")],
        ["tail", "--call", "call-00", "--until-end"],
        ["topics", "check"],
        ["topics", "create"],
    ],
    ids=lambda command: "-".join(command[:2]) if command[0] == "topics" else command[0],
)
def test_a_command_that_is_not_let_in_says_why_in_one_line_and_ends(secure, fault, command, monkeypatch, capsys):
    servers, known = given(secure, fault)
    for name in [name for name in os.environ if name.startswith("KAFKA_")]:
        monkeypatch.delenv(name)
    for name, value in known.items():
        monkeypatch.setenv(f"KAFKA_{name.upper()}", value)
    began = time.monotonic()
    code, said = run([*command, "--bootstrap-servers", servers], capsys, fault == "password")
    assert code == 1, said
    (line,) = said.splitlines()
    assert FAULTS[fault][2] in line
    assert "wrong-one" not in said
    assert time.monotonic() - began < 15


def run(arguments: list[str], capsys, apart: bool) -> tuple[int, str]:
    """Exit code and all that was said on standard error, by a process of its own or, quicker, by this one."""
    if apart:
        done = subprocess.run(
            [sys.executable, "-m", "trunkline", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
        return done.returncode, done.stderr
    return main(arguments), capsys.readouterr().err


def test_a_worker_that_is_not_let_in_says_why_and_ends(secure, zygote):
    workers = {}
    for fault in FAULTS:
        servers, known = given(secure, fault)
        settings = {f"kafka.{name}": value for name, value in known.items() if name != "sasl_password"}
        environment = {}
        if password := known.get("sasl_password"):
            environment["TRUNKLINE_KAFKA__SASL_PASSWORD"] = password
        workers[fault] = LocalWorker(
            servers, Topics(), MODEL, settings=ONE_THREAD | settings, environment=environment, zygote=zygote
        )
        workers[fault].start(wait=False)
    try:
        for fault, worker in workers.items():
            assert worker.process.wait(60) == 1, worker.log_tail()
            text = worker.log_tail(100)
            assert text.count('"level": "critical"') == 1, text
            assert FAULTS[fault][2] in text
            assert "Traceback" not in text
            assert "wrong-one" not in text
    finally:
        for worker in workers.values():
            worker.kill()


def test_usage_errors_are_all_named_and_the_exit_code_is_2():
    done = subprocess.run(
        [sys.executable, "-m", "trunkline", "topics", "check", "--security-protocol", "SASL_SSL"],
        cwd=ROOT, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--sasl-username or KAFKA_SASL_USERNAME" in done.stderr
    assert "KAFKA_SASL_PASSWORD" in done.stderr
