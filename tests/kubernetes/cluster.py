"""A real Kubernetes control plane on loopback, as child processes that end with the process that started them.

etcd, API server, controller manager and scheduler are real. kwok plays two nodes of two GPUs each and their kubelets:
pods are scheduled, bound and become Ready, and nothing runs in them.
"""

import json
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy import guard
from deploy.server import free_ports

HERE = Path(__file__).parent
NODES = ("gpu-0", "gpu-1")
START_S = 120.0


class ClusterError(Exception):
    """A command failed, or the control plane did not come up; the text is what it said."""


class Cluster:
    """`with Cluster(binaries) as cluster: cluster.kubectl("get", "nodes")`."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="trunkline-kubernetes-"))
        self.config = self.folder / "kubeconfig"
        self._children: list[guard.Guarded] = []

    def start(self) -> None:
        """Return when both nodes are ready. Raises ClusterError."""
        client, peer, api = (f"127.0.0.1:{port}" for port in free_ports(3))
        self.run(
            "etcd",
            "--data-dir=etcd",
            "--unsafe-no-fsync",
            *(f"--{each}-client-urls=http://{client}" for each in ("listen", "advertise")),
            f"--listen-peer-urls=http://{peer}",
            f"--initial-advertise-peer-urls=http://{peer}",
            f"--initial-cluster=default=http://{peer}",
        )
        subprocess.run(
            ["openssl", "genrsa", "-out", "sa.key", "2048"], cwd=self.folder, check=True, capture_output=True
        )
        token = secrets.token_hex(16)
        (self.folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        self.run(
            "kube-apiserver",
            f"--etcd-servers=http://{client}",
            "--cert-dir=pki",
            "--bind-address=127.0.0.1",
            f"--secure-port={api.rpartition(':')[2]}",
            "--authorization-mode=RBAC",
            "--token-auth-file=tokens.csv",
            "--service-account-key-file=sa.key",
            "--service-account-signing-key-file=sa.key",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            *self._front_proxy(),
        )
        self.config.write_text(json.dumps(_kubeconfig(api, token)))
        self._wait("get", "--raw", "/readyz")
        common = (f"--kubeconfig={self.config}", "--leader-elect=false", "--bind-address=127.0.0.1")
        manager, scheduler, kwok = free_ports(3)
        # the autoscaler looks every second instead of every fifteen, and waits for nobody
        self.run(
            "kube-controller-manager",
            *common,
            f"--secure-port={manager}",
            "--service-account-private-key-file=sa.key",
            "--horizontal-pod-autoscaler-sync-period=1s",
            # kwok's first heartbeat may be a minute away, and pods of a node that is given up are not ready
            "--node-monitor-grace-period=1h",
        )
        self.run("kube-scheduler", *common, f"--secure-port={scheduler}")
        self.apply(*(_node(name, zone) for zone, name in enumerate(NODES)))
        self.run(
            "kwok",
            f"--kubeconfig={self.config}",
            "--manage-all-nodes=true",
            f"--config={self.binaries / 'stages.yaml'}",
            f"--config={HERE / 'stages.yaml'}",
            f"--server-address=127.0.0.1:{kwok}",
        )
        self._wait("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=1s")

    def run(self, program: str, *arguments: str, env: dict[str, str] | None = None) -> guard.Guarded:
        """Start one of the binaries; it ends with this process, its log is PROGRAM.log in `folder`."""
        with (self.folder / f"{program}.log").open("ab") as output:
            child = guard.run(
                [str(self.binaries / program), *arguments],
                cwd=self.folder,
                stdout=output,
                stderr=output,
                env={**os.environ, **(env or {})},
                remove=[self.folder],
            )
        self._children.append(child)
        return child

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._command("kubectl", *arguments, stdin=stdin)

    def try_apply(self, manifest: str, namespace: str) -> str:
        """What the API server says to these objects, warnings included, without taking them. Raises ClusterError."""
        return self._command(
            "kubectl",
            "apply",
            "--dry-run=server",
            f"--namespace={namespace}",
            "--filename=-",
            stdin=manifest,
            warn=True,
        )

    def helm(self, *arguments: str) -> str:
        return self._command("helm", *arguments)

    def get(self, *arguments: str) -> Any:
        """What the API server has, as JSON."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def apply(self, *documents: dict[str, Any]) -> None:
        self.kubectl("apply", "--filename=-", stdin="\n".join(f"---\n{json.dumps(each)}" for each in documents))

    def close(self) -> None:
        for child in reversed(self._children):
            child.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, program: str, *arguments: str, stdin: str | None = None, warn: bool = False) -> str:
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            env=os.environ | {"KUBECONFIG": str(self.config), "HELM_CACHE_HOME": str(self.folder / "helm")},
            input=stdin or "",
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ClusterError(f"{program} {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return done.stdout + (done.stderr if warn else "")

    def _front_proxy(self) -> list[str]:
        """Certificate with which the API server speaks to servers that extend it, such as KEDA's for metrics."""
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=front-proxy",
             "-keyout", "front.key", "-out", "front.pem"],
            cwd=self.folder, check=True, capture_output=True,
        )  # fmt: skip
        return [
            "--requestheader-client-ca-file=front.pem",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-username-headers=X-Remote-User",
            "--proxy-client-cert-file=front.pem",
            "--proxy-client-key-file=front.key",
        ]

    def _wait(self, *arguments: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.kubectl(*arguments)
                return
            except ClusterError as error:
                dead = [child for child in self._children if child.poll() is not None]
                if dead or time.monotonic() > deadline:
                    logs = "\n".join(f"{log.name}: {_tail(log)}" for log in sorted(self.folder.glob("*.log")))
                    raise ClusterError(f"the control plane did not come up: {error}\n{logs}") from None
            time.sleep(0.25)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _tail(log: Path, lines: int = 5) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _kubeconfig(api: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": f"https://{api}", "insecure-skip-tls-verify": True}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "local",
    }


def _node(name: str, zone: int) -> dict[str, Any]:
    offers = {"cpu": "32", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "2"}
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": f"zone-{zone}",
        "nvidia.com/gpu.present": "true",
    }
    taints = [{"key": "nvidia.com/gpu", "effect": "PreferNoSchedule"}]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {"taints": taints},
        "status": {"allocatable": offers, "capacity": offers},
    }
