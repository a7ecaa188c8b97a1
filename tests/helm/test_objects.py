"""What the objects of the chart promise: security, probes, network, scaling, monitoring."""

import json
import math

import promql_parser
import pytest
import yaml

from tests.helm.chart import CHART, VALUES, objects, only, pod_specs, render, rendered, worker
from worker.telemetry.metrics import Metrics

ON = "everything-on"


def _containers(spec):
    return [*spec.get("initContainers", ()), *spec["containers"]]


@pytest.mark.parametrize("name", VALUES)
def test_every_pod_is_what_pod_security_restricted_asks_for(name):
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "image"}
    for spec in pod_specs(rendered(name)).values():
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in _containers(spec):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
        for volume in spec["volumes"]:
            assert len(volume.keys() - {"name"} & allowed) == 1, volume


@pytest.mark.parametrize("name", VALUES)
def test_every_mount_has_its_volume(name):
    claimed = {
        t["metadata"]["name"] for t in only(rendered(name), "StatefulSet")["spec"].get("volumeClaimTemplates", ())
    }
    for spec in pod_specs(rendered(name)).values():
        volumes = [volume["name"] for volume in spec["volumes"]]
        assert len(set(volumes)) == len(volumes)
        for container in _containers(spec):
            for mount in container.get("volumeMounts", ()):
                assert mount["name"] in {*volumes, *claimed}


def test_services_of_the_namespace_do_not_appear_as_settings_in_the_environment():
    assert all(spec["enableServiceLinks"] is False for spec in pod_specs(rendered(ON)).values())


def test_probes_lead_to_the_telemetry_port_and_starting_has_the_models_time():
    for name, seconds in ((ON, 1200), ("defaults", 900)):
        (container,) = [each for each in worker(rendered(name))["containers"] if each["name"] == "worker"]
        (port,) = container["ports"]
        probes = {probe: container[probe] for probe in container if probe.endswith("Probe")}
        assert {probe: found["httpGet"]["path"] for probe, found in probes.items()} == {
            # a worker answers /healthz while it loads the model, and is ready when it has
            "startupProbe": "/readyz",
            "livenessProbe": "/healthz",
            "readinessProbe": "/readyz",
        }
        assert {found["httpGet"]["port"] for found in probes.values()} == {port["name"]}
        start = probes["startupProbe"]
        assert seconds <= start["periodSeconds"] * start["failureThreshold"] < seconds + start["periodSeconds"]


def test_an_image_is_named_by_its_digest_where_there_is_one():
    (container,) = worker(rendered("gpu-production"))["containers"]
    assert container["image"].startswith("registry.example.com/trunkline-worker@sha256:")
    assert worker(rendered("defaults"))["containers"][0]["image"] == "trunkline-worker:0.1.0"
    specs = pod_specs(rendered(ON))
    assert specs["speech-asr-topics"]["containers"][0]["image"] == "registry.example.com/trunkline-producer:0.1.0"
    same = pod_specs(rendered("tls-everywhere"))["calls-trunkline-topics"]
    assert same["containers"][0]["image"] == "trunkline-worker:0.1.0"


def test_a_worker_has_its_gpu_and_its_place():
    values = VALUES[ON]
    spec = worker(rendered(ON))
    assert spec["containers"][0]["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 1}
    for key in ("nodeSelector", "tolerations", "affinity", "runtimeClassName", "priorityClassName", "schedulerName"):
        assert spec[key] == values[key], key
    (spread,) = spec["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    selector = only(rendered(ON), "StatefulSet")["spec"]["selector"]
    assert spread["labelSelector"] == selector, "one without a selector would count no pod"
    mig = objects({"gpu": {"resource": "nvidia.com/mig-3g.40gb"}})
    assert worker(mig)["containers"][0]["resources"]["limits"]["nvidia.com/mig-3g.40gb"] == 1


def test_other_settings_make_other_pods_and_the_same_settings_do_not():
    def template(values):
        return only(objects(values), "StatefulSet")["spec"]["template"]

    assert template({}) == template({"replicas": 5})
    assert template({}) != template({"settings": {"stream": {"endpoint_ms": 500}}})


@pytest.mark.parametrize("name", VALUES)
def test_everything_that_selects_workers_selects_workers_only(name):
    found = rendered(name)
    stateful = only(found, "StatefulSet")["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    selectors = [stateful["selector"]["matchLabels"], only(found, "Service")["spec"]["selector"]]
    for each in found:
        if each["kind"] in ("PodDisruptionBudget", "PodMonitor"):
            selectors.append(each["spec"]["selector"]["matchLabels"])
        if each["kind"] == "NetworkPolicy" and not each["metadata"]["name"].endswith(("-client", "-topics")):
            selectors.append(each["spec"]["podSelector"]["matchLabels"])
        if each["kind"] == "ServiceMonitor":
            assert (
                each["spec"]["selector"]["matchLabels"].items() <= only(found, "Service")["metadata"]["labels"].items()
            )
    clients = [each["metadata"]["labels"] for each in found if each["kind"] == "Pod"]
    clients += [each["spec"]["template"]["metadata"]["labels"] for each in found if each["kind"] == "Job"]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not any(selector.items() <= client.items() for client in clients)


def test_labels_of_the_user_stand_beside_the_charts_and_the_more_special_one_counts():
    values = {
        "commonLabels": {"team": "voice", "app.kubernetes.io/version": "ours", "app.kubernetes.io/part-of": "calls"},
        "podLabels": {"team": "speech", "helm.sh/chart": "none"},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "labels": {"app.kubernetes.io/instance": "prom", "team": "watch"}},
            "prometheusRule": {"enabled": True, "labels": {"team": "watch"}},
            "dashboards": {"enabled": True, "labels": {"team": "watch"}},
        },
        "topics": {"create": True},
    }
    found = objects(values)  # by a reader that refuses a label given twice
    for each in found:
        labels = each["metadata"]["labels"]
        watched = each["kind"] in ("ServiceMonitor", "PrometheusRule") or "-dashboard-" in each["metadata"]["name"]
        assert labels["team"] == ("watch" if watched else "voice")
        assert labels["app.kubernetes.io/version"] == "ours"
        assert labels["app.kubernetes.io/part-of"] == "calls"
    assert only(found, "ServiceMonitor")["metadata"]["labels"]["app.kubernetes.io/instance"] == "prom"
    pod = only(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert (pod["team"], pod["helm.sh/chart"], pod["app.kubernetes.io/component"]) == ("speech", "none", "worker")


def test_a_release_whose_name_looks_like_a_number_has_texts_as_labels():
    for each in objects({"topics": {"create": True}, "networkPolicy": {"enabled": True}}, name="123"):
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "123"
        if each["kind"] == "StatefulSet":
            assert each["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] == "123"


def test_two_releases_in_a_namespace_share_nothing():
    one, two = (
        objects(VALUES[ON] | {"fullnameOverride": ""}),
        objects(VALUES[ON] | {"fullnameOverride": ""}, name="two"),
    )
    names = [{(each["kind"], each["metadata"]["name"]) for each in found} for found in (one, two)]
    assert names[0] & names[1] == {("ServiceAccount", "asr")}, "that one has a name of the user's"
    selectors = [only(found, "StatefulSet")["spec"]["selector"]["matchLabels"] for found in (one, two)]
    assert selectors[0] != selectors[1]


def test_workers_are_scaled_by_lag_and_streams_capped_by_partitions_with_a_fallback():
    (scaled,) = [each["spec"] for each in rendered("gpu-production") if each["kind"] == "ScaledObject"]
    assert scaled["scaleTargetRef"]["kind"] == "StatefulSet"
    assert scaled["scaleTargetRef"]["name"] == only(rendered("gpu-production"), "StatefulSet")["metadata"]["name"]
    assert scaled["fallback"] == {"failureThreshold": 3, "replicas": 8, "behavior": "currentReplicasIfHigher"}
    assert "replicas" not in only(rendered("gpu-production"), "StatefulSet")["spec"], "they are the scaler's"
    _, streams = (trigger["metadata"] for trigger in scaled["triggers"])
    assert streams["threshold"] == "400"
    few = objects({"autoscaling": {"enabled": True, "maxReplicas": 40, "fallback": {"replicas": 30}}})
    capped = only(few, "ScaledObject")["spec"]
    assert capped["maxReplicaCount"] == capped["fallback"]["replicas"] == 12
    hpa = only(rendered("hpa"), "HorizontalPodAutoscaler")["spec"]
    assert hpa["maxReplicas"] == 12
    more = objects({"autoscaling": {"enabled": True, "kind": "hpa", "minReplicas": 3}})
    assert only(more, "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 3


@pytest.mark.parametrize("name", ["gpu-production", ON])
def test_the_scalers_queries_are_promql_about_metrics_that_a_worker_has(name):
    metrics = Metrics()
    known = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    known |= {family.name for family in metrics.registry.collect()}
    asked = set()
    for trigger in only(rendered(name), "ScaledObject")["spec"]["triggers"]:
        tree = promql_parser.parse(trigger["metadata"]["query"])
        assert tree is not None
        asked |= {
            word
            for word in trigger["metadata"]["query"].replace("{", " ").replace("(", " ").split()
            if "trunkline_" in word
        }
        assert math.isfinite(float(trigger["metadata"]["threshold"]))
    assert asked == {"trunkline_ready", "trunkline_lag_seconds", "trunkline_streams_open"}
    assert asked <= known


def test_alerts_and_dashboards_are_the_projects_files():
    rule = only(rendered(ON), "PrometheusRule")["spec"]
    file = yaml.safe_load((CHART / "files" / "rules" / "trunkline.yaml").read_text())
    for made, written in zip(rule["groups"][0]["rules"], file["groups"][0]["rules"], strict=True):
        assert made["expr"] == written["expr"]
        assert made["annotations"]["runbook_url"] == written["annotations"]["runbook_url"].replace(
            "docs/runbooks", "https://example.com/runbooks"
        )
    for path in (CHART / "files" / "dashboards").iterdir():
        made = only(rendered(ON), "ConfigMap", f"-dashboard-{path.stem}")
        assert made["metadata"]["labels"]["grafana_dashboard"] == "yes"
        usual = only(rendered("gpu-production"), "ConfigMap", f"-dashboard-{path.stem}")
        assert usual["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert json.loads(made["data"][f"trunkline-{path.name}"]) == json.loads(path.read_text())


def test_hooks_come_before_the_workers_and_with_the_test():
    hooks = {
        (each["kind"], each["metadata"]["name"]): each["metadata"]["annotations"]["helm.sh/hook"]
        for each in rendered(ON)
        if "helm.sh/hook" in each["metadata"].get("annotations", {})
    }
    assert hooks == {
        ("Job", "speech-asr-topics"): "pre-install,pre-upgrade",
        # the first install's job runs before the release's own policies are there
        ("NetworkPolicy", "speech-asr-topics"): "pre-install,pre-upgrade",
        ("ConfigMap", "speech-asr-test-call"): "test",
        ("Pod", "speech-asr-test-call"): "test",
    }
    before = only(rendered(ON), "NetworkPolicy", "-topics")["metadata"]["annotations"]["helm.sh/hook-weight"]
    assert int(before) < 0, "a hook's weight is 0"
    # a hook that comes before the install cannot use what the install makes
    job = pod_specs(rendered(ON))["speech-asr-topics"]
    assert "serviceAccountName" not in job
    assert not [volume for volume in job["volumes"] if "configMap" in volume]


def test_the_users_own_objects_are_templates():
    extra = [
        each["metadata"]["name"] for each in rendered(ON) if each["metadata"]["name"].endswith(("-extra", "-text"))
    ]
    assert extra == ["speech-asr-extra", "calls-extra-text"]


def test_config_maps_are_small_enough():
    for text in render(VALUES[ON]).values():
        assert len(text) < 1_000_000
