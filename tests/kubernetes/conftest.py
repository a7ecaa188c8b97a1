"""`make test-kubernetes` builds a control plane, says in TRUNKLINE_TESTS_KUBERNETES where; else none of this runs."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.security.conftest import authority, secure
from tests.kubernetes.cluster import HERE, Cluster

__all__ = ["authority", "secure"]  # fixtures of the tests of security, used here, too

BINARIES = os.environ.get("TRUNKLINE_TESTS_KUBERNETES")
collect_ignore_glob = [] if BINARIES else ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane with the custom resources of KEDA and the Prometheus operator, and with what a site has."""
    with Cluster(Path(BINARIES or "")) as running:
        running.kubectl("create", "--filename", str(running.binaries / "crds.yaml"))
        running.kubectl("apply", "--filename", str(HERE / "site.yaml"))
        yield running
