"""What the API server hands to a kubelet, started here: real workers on a real, secured broker, until one is drained.

kwok's pods run nothing. So two workers are taken as the API server has them, after it has filled in its defaults, and
the topics' job and the pod of `helm test` as Helm keeps them with the release (`helm get hooks`). They are started as
processes with those arguments, variables, settings and secrets. Only the telemetry address differs, since the two
workers share this machine's ports.
"""

import asyncio
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deploy import guard
from tests.conftest import require
from tests.helm.chart import Object
from tests.helm.pod import Container, place
from tests.integration.disturbed import names
from tests.integration.oracle import Oracle
from tests.integration.security.broker import PASSWORD, Secure
from tests.integration.sending import spoken, talk
from tests.integration.support import MODEL, ROOT, Outputs, unique
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.release import Release, release
from wire import Topics

PARTITIONS = 4
# Folders, --, command: only these can be written, as on a read-only root.
READ_ONLY = """while [ "$1" != -- ]; do mount --bind "$1" "$1"; shift; done; shift
mount -o remount,ro,bind /; exec "$@"
"""
OWN_ADDRESS = {"TRUNKLINE_TELEMETRY__HOST": "127.0.0.1", "TRUNKLINE_TELEMETRY__PORT": "0"}


class Pod:
    """A container as a process, probed by its own probes."""

    def __init__(self, pod: Object, container: Container, path: str) -> None:
        self.name = pod["metadata"]["name"]
        self._spec = pod["spec"]
        (self._container,) = self._spec["containers"]
        self._placed = container
        self._path = path
        self.log = container.path("/tmp") / "log"
        self._process: guard.Guarded | None = None

    def start(self, address: dict[str, str]) -> None:
        with self.log.open("wb") as output:
            self._process = guard.run(
                [*self._read_only(), "trunkline", *self._placed.args],
                # where Python looks for /tmp
                env={"PATH": self._path, "TMPDIR": str(self._placed.path("/tmp")), **self._placed.env, **address},
                cwd="/",
                stdout=output,
                stderr=output,
                grace_s=self._spec["terminationGracePeriodSeconds"],
            )

    def _read_only(self) -> list[str]:
        assert self._container["securityContext"]["readOnlyRootFilesystem"]
        if not may_mount():
            return []
        mounts = [each["mountPath"] for each in self._container["volumeMounts"] if not each.get("readOnly")]
        return ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", *(str(self._placed.path(m)) for m in mounts), "--"]

    def until_started(self) -> None:
        """As the kubelet: the startup probe as often as it may fail, then the two others once."""
        probe = self._container["startupProbe"]
        deadline = time.monotonic() + probe["periodSeconds"] * probe["failureThreshold"]
        while not self._passes("startupProbe"):
            assert self._running.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.2)
        assert self._passes("livenessProbe")
        assert self._passes("readinessProbe")

    def terminate(self) -> tuple[int, float]:
        """SIGTERM; exit code and seconds. Fails if it outlives its grace period, when the kubelet would kill it."""
        grace = self._spec["terminationGracePeriodSeconds"]
        began = time.monotonic()
        self._running.terminate()
        return self._running.wait(timeout=grace), time.monotonic() - began

    def metric(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self._get("/metrics"), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    @property
    def pid(self) -> int:
        return self._running.pid

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    @property
    def _running(self) -> guard.Guarded:
        assert self._process is not None
        return self._process

    def _passes(self, probe: str) -> bool:
        asked = self._container[probe]["httpGet"]
        (port,) = self._container["ports"]
        assert asked["port"] == port["name"]
        try:
            self._get(asked["path"], self._container[probe]["timeoutSeconds"])
            return True
        except OSError:
            return False

    def _get(self, path: str, timeout_s: float = 5) -> str:
        found = re.search(r"metrics at (http://\S+)/metrics", self.log.read_text(errors="replace"))
        if found is None:
            raise OSError("no port yet")
        with urllib.request.urlopen(found[1] + path, timeout=timeout_s) as answer:
            return str(answer.read().decode())


@cache
def may_mount() -> bool:
    """Whether this user may make a root read-only for a process."""
    return subprocess.run(["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", "--", "true"]).returncode == 0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH of an image: `trunkline` of this checkout, and a shell's programs."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "trunkline"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m trunkline "$@"\n')
    program.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.fixture(scope="module")
def topics() -> Topics:
    return Topics(*(unique(name) for name in astuple(Topics())))


@pytest.fixture(scope="module")
def installed(cluster: Cluster, secure: Secure, topics: Topics) -> Iterator[Release]:
    """Two workers that Helm has installed, with secrets for a broker that asks for TLS, a user and rights."""
    group = unique("installed")
    secure.user("worker")
    secure.may_work("worker", topics, group)
    secure.user("operator")
    for name in astuple(topics):
        secure.allow("operator", "TOPIC", name, "CREATE", "DESCRIBE", "DESCRIBE_CONFIGS")
    secure.allow("operator", "TOPIC", topics.audio, "WRITE")
    for name in (topics.final, topics.partial):
        secure.allow("operator", "TOPIC", name, "READ")
    kafka: dict[str, Any] = {
        "bootstrap_servers": secure.kafka.address("SECURE"),
        "security_protocol": "SASL_SSL",
        "group": group,
        **{f"{name}_topic": getattr(topics, name) for name in ("audio", "final", "partial", "rejected", "streams")},
    }
    values = {
        "replicas": 2,
        "gpu": {"count": 0},
        "settings": {"kafka": kafka, "model": {"threads": 1}, "drain_timeout_s": 20},
        "model": {"from": "persistentVolumeClaim", "persistentVolumeClaim": {"name": "models", "path": MODEL.name}},
        "secrets": {
            "kafkaSasl": {"name": "kafka-worker", "usernameKey": "username"},
            "kafkaTls": {"name": "kafka-ca"},
            "clientSasl": {"name": "kafka-operator", "usernameKey": "username"},
        },
        "topics": {"create": True, "partitions": PARTITIONS, "replicationFactor": 1},
    }
    secrets = {
        "kafka-worker": {"username": "worker", "password": PASSWORD},
        "kafka-operator": {"username": "operator", "password": PASSWORD},
        "kafka-ca": {"ca.crt": secure.authority.ca.read_text()},
    }
    with release(cluster, values, secrets) as made:
        made.install()
        yield made


def _placed(made: Release, spec: Object, container: str, root: Path) -> Container:
    return place(spec, container, root, lambda kind, name: made.get(kind.lower(), name))


@pytest.fixture(scope="module")
def created(installed: Release, path: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the topics' job says; Helm has deleted it, and keeps it with the release."""
    (job,) = [hook for hook in installed.hooks() if hook["kind"] == "Job"]
    container = _placed(installed, job["spec"]["template"]["spec"], "topics", tmp_path_factory.mktemp("topics"))
    done = subprocess.run(
        ["trunkline", *container.args],
        env={"PATH": path, **container.env},
        executable=shutil.which("trunkline", path=path),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def pods(installed: Release, created: str, path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pod]]:
    """Both workers, started and probed."""
    started = []
    for pod in installed.workers():
        container = _placed(installed, pod["spec"], "worker", tmp_path_factory.mktemp("worker"))
        shutil.copy(MODEL, container.path("/model"))
        started.append(Pod(pod, container, path))
    try:
        for each in started:
            each.start(OWN_ADDRESS)
        for each in started:
            each.until_started()
        yield started
    finally:
        for each in started:
            each.stop()


def test_the_job_creates_the_topics(created, topics):
    assert all(f"{name}: created, {PARTITIONS} partitions" in created for name in astuple(topics))
    assert "The worker can run on these topics." in created


def test_the_workers_root_is_read_only(pods):
    require(may_mount(), "only a user who may mount can try this")
    assert all(pod.metric("trunkline_ready") == 1 for pod in pods)
    with (Path("/proc") / str(pods[0].pid) / "mounts").open() as mounts:
        (root,) = [line.split()[3] for line in mounts if line.split()[1] == "/"]
    assert "ro" in root.split(",")


def test_helms_test_call_comes_back_as_words(installed, pods, path, tmp_path):
    hooks = installed.hooks()
    (pod,) = [hook for hook in hooks if hook["kind"] == "Pod"]

    def lookup(kind: str, name: str) -> Object:
        if kind == "Secret":
            return dict(installed.get("secret", name))
        (found,) = [hook for hook in hooks if (hook["kind"], hook["metadata"]["name"]) == (kind, name)]
        return found

    container = place(pod["spec"], "call", tmp_path, lookup)
    assert container.command is not None
    done = subprocess.run(
        [*container.command, *container.args],
        env={"PATH": path, **container.env},
        capture_output=True,
        text=True,
        timeout=pod["spec"]["activeDeadlineSeconds"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "thank you for calling customer support how can i help you today" in done.stdout


def test_a_worker_that_is_terminated_hands_its_calls_over_and_no_word_is_lost(secure, topics, pods):
    servers = secure.kafka.bootstrap_servers
    leaving, staying = pods
    assert [pod.metric("trunkline_partitions_assigned") for pod in pods] == [2, 2]
    told = [(call, channel) for call in ("call-00", "call-01") for channel in (0, 1)]
    streams = dict(zip(names("call", range(PARTITIONS)), (spoken(*each) for each in told), strict=True))
    outputs = Outputs(servers, topics)
    ended = []
    try:
        asyncio.run(talk(servers, topics.audio, streams, 4.0, lambda: ended.append(leaving.terminate())))
        heard = outputs.ended(streams)
    finally:
        outputs.close()
    ((code, seconds),) = ended
    assert code == 0, leaving.log.read_text()[-3000:]
    print(f"drained in {seconds:.1f} s")
    assert staying.metric("trunkline_partitions_assigned") == PARTITIONS
    oracle = Oracle(MODEL)
    for stream, (samples, rate) in streams.items():
        events = [event.head.id for event in heard[stream].events]
        assert len(set(events)) == len(events)
        oracle.check(heard[stream], samples, rate)
    assert not outputs.rejected


def test_a_worker_that_can_no_longer_be_let_in_says_why(installed, created, path, tmp_path):
    """The secret is what opens the door: with another one the same pod does not start."""
    (pod, _) = installed.workers()
    container = _placed(installed, pod["spec"], "worker", tmp_path)
    container.path("/etc/trunkline-secrets/kafka-sasl/password").write_text("wrong\n")
    failing = Pod(pod, container, path)
    failing.start(OWN_ADDRESS)
    with pytest.raises(AssertionError, match="cannot be used"):
        failing.until_started()
    failing.stop()
