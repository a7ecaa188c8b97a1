"""Where each value arrives: a table of values and of the objects' fields that must have them."""

from typing import Any

import pytest

from tests.helm.chart import DEFAULTS, VALUES, Object, only, rendered

ON = "everything-on"
POD = "spec/template/spec"
WORKER = f"{POD}/containers/worker"
CLIENT = f"{POD}/containers/topics"
INIT = f"{POD}/initContainers/model"
VOLUME = f"{POD}/volumes/model"
CLAIM = "spec/volumeClaimTemplates/0/spec"
CACHE = "model/huggingFace/cache"
KEDA = "spec/advanced/horizontalPodAutoscalerConfig"
ENDPOINT = "spec/endpoints/0"
POD_ENDPOINT = "spec/podMetricsEndpoints/0"

# Values file, value, kind of the object, end of its name, path in it. Maps and lists may have more beside the value.
ARRIVES = [
    (ON, "podLabels", "StatefulSet", "", "spec/template/metadata/labels"),
    (ON, "commonLabels", "StatefulSet", "", "spec/template/metadata/labels"),
    (ON, "podAnnotations", "StatefulSet", "", "spec/template/metadata/annotations"),
    ("minimal", "replicas", "StatefulSet", "", "spec/replicas"),
    ("everything-off", "replicas", "StatefulSet", "", "spec/replicas"),
    (ON, "image/pullPolicy", "StatefulSet", "", f"{WORKER}/imagePullPolicy"),
    (ON, "image/pullPolicy", "Job", "", f"{CLIENT}/imagePullPolicy"),
    (ON, "imagePullSecrets", "StatefulSet", "", f"{POD}/imagePullSecrets"),
    (ON, "imagePullSecrets", "Job", "", f"{POD}/imagePullSecrets"),
    (ON, f"{CACHE}/size", "StatefulSet", "", f"{CLAIM}/resources/requests/storage"),
    (ON, f"{CACHE}/storageClassName", "StatefulSet", "", f"{CLAIM}/storageClassName"),
    ("minimal", "model/persistentVolumeClaim/name", "StatefulSet", "", f"{VOLUME}/persistentVolumeClaim/claimName"),
    ("gpu-production", "model/image/reference", "StatefulSet", "", f"{INIT}/image"),
    ("gpu-production", "model/image/pullPolicy", "StatefulSet", "", f"{INIT}/imagePullPolicy"),
    ("gpu-production", "model/image/resources", "StatefulSet", "", f"{INIT}/resources"),
    ("image-volume", "model/image/reference", "StatefulSet", "", f"{VOLUME}/image/reference"),
    ("image-volume", "model/image/pullPolicy", "StatefulSet", "", f"{VOLUME}/image/pullPolicy"),
    *(
        ("init-container", f"model/initContainer/{key}", "StatefulSet", "", f"{INIT}/{key}")
        for key in ("image", "command", "args", "env", "envFrom", "resources")
    ),
    ("init-container", "model/initContainer/pullPolicy", "StatefulSet", "", f"{INIT}/imagePullPolicy"),
    (ON, "secrets/kafkaSasl/name", "StatefulSet", "", f"{POD}/volumes/kafka-sasl/secret/secretName"),
    (ON, "secrets/kafkaTls/name", "StatefulSet", "", f"{POD}/volumes/kafka-tls/secret/secretName"),
    (ON, "secrets/redis/name", "StatefulSet", "", f"{POD}/volumes/redis/secret/secretName"),
    (ON, "secrets/redisTls/name", "StatefulSet", "", f"{POD}/volumes/redis-tls/secret/secretName"),
    (ON, "secrets/clientSasl/name", "Job", "", f"{POD}/volumes/kafka-sasl/secret/secretName"),
    (ON, "secrets/clientTls/name", "Job", "", f"{POD}/volumes/kafka-tls/secret/secretName"),
    (ON, "secrets/clientTls/name", "Pod", "", "spec/volumes/kafka-tls/secret/secretName"),
    (ON, "resources/requests", "StatefulSet", "", f"{WORKER}/resources/requests"),
    (ON, "tmpSizeLimit", "StatefulSet", "", f"{POD}/volumes/tmp/emptyDir/sizeLimit"),
    (ON, "topologySpreadConstraints/0/maxSkew", "StatefulSet", "", f"{POD}/topologySpreadConstraints/0/maxSkew"),
    (ON, "priorityClassName", "Job", "", f"{POD}/priorityClassName"),
    (ON, "serviceAccount/name", "StatefulSet", "", f"{POD}/serviceAccountName"),
    (ON, "serviceAccount/name", "ServiceAccount", "", "metadata/name"),
    (ON, "serviceAccount/annotations", "ServiceAccount", "", "metadata/annotations"),
    (ON, "podSecurityContext", "StatefulSet", "", f"{POD}/securityContext"),
    (ON, "podSecurityContext", "Job", "", f"{POD}/securityContext"),
    (ON, "containerSecurityContext", "StatefulSet", "", f"{WORKER}/securityContext"),
    *(
        (ON, f"probes/{key}", "StatefulSet", "", f"{WORKER}/{probe}/{key}")
        for probe, keys in {
            "startupProbe": ("timeoutSeconds",),
            "livenessProbe": ("periodSeconds", "timeoutSeconds", "failureThreshold"),
            "readinessProbe": ("periodSeconds", "timeoutSeconds"),
        }.items()
        for key in keys
    ),
    (ON, "updateStrategy", "StatefulSet", "", "spec/updateStrategy"),
    (ON, "minReadySeconds", "StatefulSet", "", "spec/minReadySeconds"),
    (ON, "podDisruptionBudget/maxUnavailable", "PodDisruptionBudget", "", "spec/maxUnavailable"),
    (ON, "networkPolicy/extraIngress", "NetworkPolicy", "speech-asr", "spec/ingress"),
    (ON, "networkPolicy/extraEgress", "NetworkPolicy", "speech-asr", "spec/egress"),
    (ON, "autoscaling/minReplicas", "ScaledObject", "", "spec/minReplicaCount"),
    (ON, "autoscaling/pollingIntervalSeconds", "ScaledObject", "", "spec/pollingInterval"),
    (ON, "autoscaling/cooldownSeconds", "ScaledObject", "", "spec/cooldownPeriod"),
    (ON, "autoscaling/fallback", "ScaledObject", "", "spec/fallback"),
    (ON, "autoscaling/behavior", "ScaledObject", "", f"{KEDA}/behavior"),
    *(
        (ON, f"autoscaling/prometheus/{key}", "ScaledObject", "", f"spec/triggers/{trigger}/{where}")
        for trigger in ("lag", "streams")
        for key, where in {
            "serverAddress": "metadata/serverAddress",
            "authenticationRef": "authenticationRef/name",
            "metadata": "metadata",
        }.items()
    ),
    ("hpa", "autoscaling/behavior", "HorizontalPodAutoscaler", "", "spec/behavior"),
    ("hpa", "autoscaling/lagSeconds", "HorizontalPodAutoscaler", "", "spec/metrics/0/pods/target/averageValue"),
    ("hpa", "autoscaling/streamsPerWorker", "HorizontalPodAutoscaler", "", "spec/metrics/1/pods/target/averageValue"),
    *(
        (name, f"monitoring/{monitor[0].lower()}{monitor[1:]}/{key}", monitor, "", f"{endpoint}/{key}")
        for name, monitor, endpoint in ((ON, "ServiceMonitor", ENDPOINT), ("pod-monitor", "PodMonitor", POD_ENDPOINT))
        for key in ("interval", "scrapeTimeout", "relabelings", "metricRelabelings")
    ),
    (ON, "monitoring/serviceMonitor/labels", "ServiceMonitor", "", "metadata/labels"),
    ("pod-monitor", "monitoring/podMonitor/labels", "PodMonitor", "", "metadata/labels"),
    (ON, "monitoring/prometheusRule/labels", "PrometheusRule", "", "metadata/labels"),
    (ON, "monitoring/dashboards/labels", "ConfigMap", "-dashboard-worker", "metadata/labels"),
    (ON, "monitoring/dashboards/annotations", "ConfigMap", "-dashboard-worker", "metadata/annotations"),
    (ON, "topics/timeoutSeconds", "Job", "", "spec/activeDeadlineSeconds"),
    (ON, "testCall/timeoutSeconds", "Pod", "", "spec/activeDeadlineSeconds"),
    *((ON, f"client/{key}", "Job", "", f"{POD}/{key}") for key in ("nodeSelector", "tolerations")),
    *((ON, f"client/{key}", "Pod", "", f"spec/{key}") for key in ("nodeSelector", "tolerations")),
    (ON, "client/resources", "Job", "", f"{CLIENT}/resources"),
    (ON, "client/resources", "Pod", "", "spec/containers/call/resources"),
    (ON, "extraArgs", "StatefulSet", "", f"{WORKER}/args"),
    (ON, "extraEnv", "StatefulSet", "", f"{WORKER}/env"),
    (ON, "extraEnvFrom", "StatefulSet", "", f"{WORKER}/envFrom"),
    (ON, "extraVolumes", "StatefulSet", "", f"{POD}/volumes"),
    (ON, "extraVolumeMounts", "StatefulSet", "", f"{WORKER}/volumeMounts"),
    (ON, "extraInitContainers", "StatefulSet", "", f"{POD}/initContainers"),
    (ON, "extraContainers", "StatefulSet", "", f"{POD}/containers"),
]  # fmt: skip

# What other tests look at, where the values do more than arrive.
ELSEWHERE = {
    *("nameOverride", "fullnameOverride", "extraObjects"),
    *("image/repository", "image/tag", "image/digest", "client/image/repository", "client/image/tag"),
    *("model/from", "model/huggingFace/name", "model/huggingFace/cache/enabled"),
    *("gpu/count", "gpu/resource", "resources/limits", "nodeSelector", "tolerations", "affinity"),
    *("topologySpreadConstraints", "runtimeClassName", "schedulerName", "probes/startupSeconds"),
    *("networkPolicy/metricsFrom", "networkPolicy/dnsTo", "networkPolicy/kafkaTo", "networkPolicy/kafkaPorts"),
    *("networkPolicy/redisTo", "networkPolicy/modelTo"),
    *("autoscaling/kind", "autoscaling/maxReplicas", "autoscaling/lagSeconds", "autoscaling/streamsPerWorker"),
    *("monitoring/prometheusRule/runbookUrl", "topics/create", "topics/partitions", "topics/replicationFactor"),
    # by the readers of settings
    *("settings", "model/huggingFace/tokenSecret", "secrets/clientSasl/usernameKey"),
    *(f"secrets/{secret}/passwordKey" for secret in ("kafkaSasl", "clientSasl", "redis")),
    *(
        f"secrets/{secret}/{key}"
        for secret in ("kafkaTls", "clientTls", "redisTls")
        for key in ("caKey", "certKey", "keyKey")
    ),
}

# What no value says, and what would be missed.
FIXED: list[tuple[str, str, str, str, Any]] = [
    (ON, "StatefulSet", "", "spec/podManagementPolicy", "Parallel"),
    (ON, "StatefulSet", "", f"{WORKER}/env/HOME/value", "/tmp"),
    (ON, "StatefulSet", "", f"{POD}/securityContext/fsGroup", 10001),
    (ON, "StatefulSet", "", f"{POD}/volumes/kafka-tls/secret/defaultMode", 0o440),
    (ON, "StatefulSet", "", f"{POD}/volumes/settings/configMap/name", "speech-asr"),
    ("minimal", "StatefulSet", "", f"{VOLUME}/persistentVolumeClaim/readOnly", True),
    (ON, "ServiceAccount", "", "automountServiceAccountToken", False),
    (ON, "Service", "", "spec/publishNotReadyAddresses", True),
    (ON, "Service", "", "spec/clusterIP", "None"),
    (ON, "PodDisruptionBudget", "", "spec/unhealthyPodEvictionPolicy", "AlwaysAllow"),
    (ON, "ServiceMonitor", "", f"{ENDPOINT}/path", "/metrics"),
    ("pod-monitor", "PodMonitor", "", f"{POD_ENDPOINT}/path", "/metrics"),
    (ON, "ScaledObject", "", "spec/triggers/lag/metadata/ignoreNullValues", "false"),
    (ON, "ScaledObject", "", "spec/triggers/streams/metadata/ignoreNullValues", "false"),
    ("hpa", "HorizontalPodAutoscaler", "", "spec/scaleTargetRef/name", "calls-trunkline"),
    ("hpa", "HorizontalPodAutoscaler", "", "spec/metrics/0/pods/metric/name", "trunkline_lag_seconds"),
    ("hpa", "HorizontalPodAutoscaler", "", "spec/metrics/1/pods/metric/name", "trunkline_streams_open"),
    # a job that failed is left, with its log
    (ON, "Job", "", "metadata/annotations/helm.sh|hook-delete-policy", "before-hook-creation,hook-succeeded"),
]


def _at(tree: Any, path: str) -> Any:
    """What stands at a path; an entry of a list by its name or number. "|" is a slash within a key."""
    for part in (each.replace("|", "/") for each in path.split("/")):
        if isinstance(tree, list):
            named = [each for each in tree if isinstance(each, dict) and each.get("name") == part]
            tree = named[0] if named else tree[int(part)]
        else:
            tree = tree[part]
    return tree


def _merged(under: Any, over: Any) -> Any:
    """Values over defaults, as Helm merges them."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {key: _merged(under.get(key), value) for key, value in over.items()}


def _assert_within(given: Any, found: Any) -> None:
    if isinstance(given, dict) and isinstance(found, dict):
        for key, value in given.items():
            _assert_within(value, found[key])
    elif isinstance(given, list):
        assert all(each in found for each in given)
    else:
        assert found == (str(given) if isinstance(found, str) else given)


@pytest.mark.parametrize(("name", "value", "kind", "ending", "path"), ARRIVES)
def test_a_value_arrives(name, value, kind, ending, path):
    given = _at(_merged(DEFAULTS, VALUES[name]), value)
    assert given not in ("", [], {}, None), "nothing that could arrive"
    _assert_within(given, _at(only(rendered(name), kind, ending), path))


def test_every_value_of_the_example_with_everything_has_a_test():
    def leaves(tree: Object, path: str = "") -> list[str]:
        found = []
        for key, value in tree.items():
            where = f"{path}{key}"
            if any(where == known or known.startswith(f"{where}/0/") for known in known_paths):
                continue
            found += leaves(value, f"{where}/") if isinstance(value, dict) else [where]
        return found

    known_paths = {value for _, value, *_ in ARRIVES} | ELSEWHERE
    # a switch is seen by the objects that there are
    assert [path for path in leaves(VALUES[ON]) if not path.endswith(("/enabled", "/create"))] == []


@pytest.mark.parametrize(("name", "kind", "ending", "path", "expected"), FIXED)
def test_what_no_value_says_stays(name, kind, ending, path, expected):
    assert _at(only(rendered(name), kind, ending), path) == expected


def test_monitors_name_a_port_that_there_is():
    named = _at(only(rendered(ON), "ServiceMonitor"), f"{ENDPOINT}/port")
    assert named in [port["name"] for port in only(rendered(ON), "Service")["spec"]["ports"]]
    named = _at(only(rendered("pod-monitor"), "PodMonitor"), f"{POD_ENDPOINT}/port")
    assert named in [port["name"] for port in _at(only(rendered("pod-monitor"), "StatefulSet"), f"{WORKER}/ports")]
