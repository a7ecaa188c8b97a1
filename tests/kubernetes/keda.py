"""KEDA's operator and its server of metrics as child processes beside a control plane.

What their pods would have is given to them here: certificates, addresses, the API server's kubeconfig. The metrics are
served to the control plane as in a cluster, through an APIService.
"""

from pathlib import Path

from deploy.server import free_ports
from tests.certificates import Authority
from tests.kubernetes.cluster import Cluster

NAMESPACE = "keda"


def start(cluster: Cluster) -> None:
    """Return when the control plane takes metrics from KEDA."""
    certificates = cluster.folder / "keda-certificates"
    _certificates(certificates)
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    env = {
        "KUBECONFIG": str(cluster.config),
        "POD_NAMESPACE": NAMESPACE,
        "KEDA_CLUSTER_OBJECT_NAMESPACE": NAMESPACE,
        "WATCH_NAMESPACE": "",
    }
    metrics, health, service, api, own = free_ports(5)
    cluster.run(
        "keda-operator",
        f"--metrics-bind-address=127.0.0.1:{metrics}",
        f"--health-probe-bind-address=127.0.0.1:{health}",
        f"--metrics-service-bind-address=127.0.0.1:{service}",
        f"--cert-dir={certificates}",
        "--zap-log-level=info",
        env=env,
    )
    cluster.run(
        "keda-adapter",
        "--bind-address=127.0.0.1",
        f"--secure-port={api}",
        f"--port={own}",
        f"--metrics-service-address=127.0.0.1:{service}",
        f"--cert-dir={certificates}",
        f"--client-ca-file={certificates / 'ca.crt'}",
        f"--tls-cert-file={certificates / 'tls.crt'}",
        f"--tls-private-key-file={certificates / 'tls.key'}",
        *(f"--{each}-kubeconfig={cluster.config}" for each in ("lister", "authentication", "authorization")),
        env=env,
    )
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "keda-metrics-apiserver", "namespace": NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
            "spec": {
                "service": {"name": "keda-metrics-apiserver", "namespace": NAMESPACE, "port": api},
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "insecureSkipTLSVerify": True,
            },
        },
    )
    cluster.kubectl("wait", "--for=condition=Available", "apiservice/v1beta1.external.metrics.k8s.io", "--timeout=90s")


def _certificates(folder: Path) -> None:
    folder.mkdir()
    authority = Authority(folder)
    made = authority.issue("server", "IP:127.0.0.1,DNS:localhost")
    authority.ca.rename(folder / "ca.crt")
    made.rename(folder / "tls.crt")
    made.with_suffix(".key").rename(folder / "tls.key")
