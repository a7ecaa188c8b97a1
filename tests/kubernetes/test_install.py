"""Every values file through real Helm on a real control plane: installed, upgraded, rolled back, scaled, drained."""

import contextlib
import re

import pytest
import yaml

from tests.helm.chart import CHART, EXAMPLES, VALUES, kinds
from tests.kubernetes.cluster import NODES, ClusterError
from tests.kubernetes.release import NAME, PATIENCE_S, events, eventually, release

CUSTOM = {"ScaledObject": "scaledobjects", "ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}


@pytest.mark.parametrize("name", VALUES)
def test_installs_is_upgraded_tested_and_removed(cluster, name):
    with release(cluster, VALUES[name]) as made:
        try:
            made.install()
        except ClusterError as error:
            raise AssertionError(f"{error}\n{events(made)}") from None
        wanted = 0 if name == "everything-off" else 1
        assert made.stateful_set["status"].get("readyReplicas", 0) == wanted
        assert made.ready() == len(made.workers()) == wanted
        before = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in made.workers()}
        installed = [each for each in yaml.safe_load_all(made.helm("get manifest")) if each]
        for kind, plural in CUSTOM.items():
            assert len(made.get(plural)) == kinds(installed).count(kind)

        made.upgrade("--set=settings.stream.endpoint_ms=900")
        after = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in made.workers()}
        assert after.keys() == before.keys()
        assert all(after[pod] != before[pod] for pod in after), "other settings, other pods"
        (config,) = [c for c in made.get("configmaps") if "settings.yaml" in c.get("data", {})]
        assert yaml.safe_load(config["data"]["settings.yaml"])["stream"]["endpoint_ms"] == 900

        if wanted:
            assert re.search(r"Phase:\s+Succeeded", made.helm("test", "--timeout=30s"))
        made.helm("uninstall", "--wait", "--timeout=60s")
        # the control plane's own, and the pod of the test, which is kept for its log
        own = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
        kept = "all,configmaps,networkpolicies,poddisruptionbudgets,serviceaccounts"

        def left() -> set[str]:
            found = made.kubectl("get", kept, "--output=name").split()
            return {each for each in found if not each.endswith("-test-call")} - own

        eventually(lambda: not left(), "nothing is left")


@pytest.mark.parametrize("name", VALUES)
def test_the_api_server_takes_every_object_without_a_warning(cluster, name):
    with release(cluster, VALUES[name]) as made:
        said = cluster.try_apply(made.template(), made.namespace)
        assert "Warning" not in said
        assert said.count("(server dry run)") == len([each for each in yaml.safe_load_all(made.template()) if each])


def test_a_pod_that_asks_for_more_than_restricted_is_refused(cluster):
    with release(
        cluster, EXAMPLES["minimal"] | {"containerSecurityContext": {"allowPrivilegeEscalation": True}}
    ) as made:
        with pytest.raises(ClusterError, match='violates PodSecurity "restricted'):
            cluster.try_apply(made.template(), made.namespace)


@pytest.mark.parametrize("name", ["minimal", "gpu-production"])
def test_a_failing_upgrade_is_rolled_back(cluster, name):
    with release(cluster, EXAMPLES[name] | {"replicas": 2}) as made:
        made.install()
        if name == "gpu-production":  # where a scaler says how many
            made.kubectl("scale", f"statefulset/{NAME}-trunkline", "--replicas=2")
        sound = made.stateful_set["spec"]["template"]
        with pytest.raises(ClusterError):
            made.upgrade("--set=resources.requests.cpu=1000", "--rollback-on-failure", timeout_s=15)
        assert made.stateful_set["spec"]["template"] == sound
        eventually(lambda: made.ready() == 2, "both workers are back")
        history = made.helm("history")
        assert [word for word in ("failed", "deployed") if word in history] == ["failed", "deployed"]
        # and by hand
        with pytest.raises(ClusterError):
            made.upgrade("--set=resources.requests.cpu=1000", timeout_s=10)
        made.helm("rollback", "--wait", "--timeout=60s")
        assert made.stateful_set["spec"]["template"] == sound
        assert made.ready() == 2


def test_workers_beyond_the_gpus_wait_and_scaling_down_takes_the_last(cluster):
    values = EXAMPLES["minimal"] | {"gpu": {"count": 1}, "replicas": 4}
    with release(cluster, values) as made:
        made.install()
        assert {pod["spec"]["nodeName"] for pod in made.workers()} == set(NODES)
        with pytest.raises(ClusterError):
            made.upgrade("--set=replicas=5", timeout_s=8)
        (waiting,) = [pod for pod in made.workers() if "nodeName" not in pod["spec"]]
        assert "nvidia.com/gpu" in waiting["status"]["conditions"][0]["message"]
        made.upgrade("--set=replicas=1")
        eventually(lambda: len(made.workers()) == 1, "four have gone")
        (left,) = made.workers()
        assert left["metadata"]["name"].endswith("-0")


def test_turning_autoscaling_on_keeps_the_workers_that_there_are(cluster):
    with release(cluster, EXAMPLES["minimal"] | {"replicas": 4}) as made:
        made.install()

        def pods() -> list[str]:
            return [pod["metadata"]["uid"] for pod in made.workers()]

        before = pods()
        for _ in range(2):  # nobody has scaled them before the second
            made.upgrade("--set=autoscaling.enabled=true")
            assert pods() == before, "one that had gone would have come back as another"
        made.kubectl("scale", f"statefulset/{NAME}-trunkline", "--replicas=6")  # by the subresource, as a scaler does
        eventually(lambda: made.ready() == 6, "two more")
        more = pods()
        made.upgrade("--set=autoscaling.enabled=true")
        assert pods() == more
        assert more[:4] == before
        with pytest.raises(ClusterError, match=r"conflict with .*spec\.replicas"):
            made.upgrade()
        made.upgrade("--force-conflicts")
        eventually(lambda: pods() == before, "those that the values say")


def test_a_count_that_another_owns_stays_where_manifests_are_applied_without_looking(cluster):
    page = (CHART.parents[1] / "docs" / "install.md").read_text()
    (handed_over,) = re.findall(r"echo '(.*spec: {replicas: 4}}.*)' \|", page)
    with release(cluster, EXAMPLES["minimal"] | {"replicas": 4}) as made:

        def apply(manifest: str, manager: str) -> None:
            cluster.kubectl(
                "apply",
                "--server-side",
                f"--field-manager={manager}",
                f"--namespace={made.namespace}",
                "--filename=-",
                stdin=manifest,
            )

        apply(made.template(), "argocd-controller")
        apply(handed_over.replace("name: trunkline", f"name: {NAME}-trunkline"), "scaler")
        made.write(EXAMPLES["minimal"] | {"autoscaling": {"enabled": True}})
        apply(made.template(), "argocd-controller")
        assert made.stateful_set["spec"]["replicas"] == 4


def test_draining_nodes_takes_one_worker_at_a_time(cluster):
    spread = [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}]
    with release(cluster, EXAMPLES["minimal"] | {"replicas": 2, "topologySpreadConstraints": spread}) as made:
        made.install()
        first, second = (pod["spec"]["nodeName"] for pod in made.workers())
        assert first != second
        drain = (
            "drain",
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            f"--pod-selector=app.kubernetes.io/instance={NAME}",
        )
        try:
            made.kubectl("cordon", second)
            made.kubectl(*drain, first)  # its worker has nowhere to go
            eventually(lambda: made.ready() == 1, "one worker is left")
            with pytest.raises(ClusterError, match="disruption budget"):
                made.kubectl(*drain, second, "--timeout=6s")
            assert made.ready() == 1, "the last one stays"
            made.kubectl("uncordon", first)
            eventually(lambda: made.ready() == 2, "the first is back")
            made.kubectl(*drain, second, f"--timeout={PATIENCE_S:.0f}s")
        finally:
            for node in NODES:
                with contextlib.suppress(ClusterError):
                    made.kubectl("uncordon", node)


def test_the_claims_of_a_cache_are_kept_when_workers_go_and_deleted_with_the_release(cluster):
    cache = {"enabled": True, "size": "20Gi", "storageClassName": "fast"}
    values = {"replicas": 2, "model": {"huggingFace": {"cache": cache}}}
    with release(cluster, values) as made:
        made.install()

        def claims() -> list[str]:
            return [each["metadata"]["name"] for each in made.get("persistentvolumeclaims")]

        both = [f"model-cache-{NAME}-trunkline-{ordinal}" for ordinal in (0, 1)]
        assert sorted(claims()) == [*both, "models"]
        made.upgrade("--set=replicas=1")
        eventually(lambda: len(made.workers()) == 1, "one has gone")
        assert sorted(claims()) == [*both, "models"]
        made.helm("uninstall", "--wait", "--timeout=60s")
        eventually(lambda: claims() == ["models"], "the caches have gone")


def test_a_cache_is_added_to_a_running_release_worker_by_worker_and_removed_again(cluster):
    cache = {"enabled": True, "size": "20Gi", "storageClassName": "fast"}
    with release(cluster, {"replicas": 2}) as made:
        made.install()
        made.write({"replicas": 2, "model": {"huggingFace": {"cache": cache}}})
        with pytest.raises(ClusterError, match=r"volumeClaimTemplates.*immutable"):
            made.upgrade()
        made.kubectl("delete", "statefulset", f"{NAME}-trunkline", "--cascade=orphan")
        assert made.ready() == 2, "the workers go on"
        made.helm("upgrade", str(CHART), f"--values={made.file}")
        for pod in made.workers():  # they have no claim, so that the new set can do nothing with them
            made.kubectl("delete", "pod", pod["metadata"]["name"])
            eventually(lambda: made.ready() == 2, "one with a claim has come")
        for pod in made.workers():
            (claim,) = [v["persistentVolumeClaim"] for v in pod["spec"]["volumes"] if v["name"] == "model-cache"]
            assert claim["claimName"] == f"model-cache-{pod['metadata']['name']}"
        made.write({"replicas": 2})
        made.kubectl("delete", "statefulset", f"{NAME}-trunkline", "--cascade=orphan")
        made.upgrade()
        assert not [v for pod in made.workers() for v in pod["spec"]["volumes"] if v["name"] == "model-cache"]


def test_the_examples_of_the_chart_are_all_tried():
    assert {path.stem for path in (CHART / "examples").iterdir()} == set(EXAMPLES)
