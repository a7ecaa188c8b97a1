"""Values: the schema names and describes all of them, and wrong ones are refused by their key."""

import json
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest

from deploy import chart as generated
from tests.helm.chart import CHART, DEFAULTS, EXAMPLES, render
from worker import sources

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
SASL = {"settings": {"kafka": {"security_protocol": "SASL_SSL", "sasl_username": "worker"}}}
REDIS = {"settings": {"state": {"store": "redis", "redis_url": "redis://redis:6379/0", "redis_username": "worker"}}}


def test_schema_and_table_are_as_they_would_be_made():
    assert generated.SCHEMA.read_text() == generated.schema_text(), "run: make chart"
    assert generated.README.read_text() == generated.readme_text(), "run: make chart"


def _walk(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """Every key, also those of lists' entries and of the shapes that are referred to."""
    found = {}
    while "$ref" in schema or "items" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema["items"]
    for name, field in schema.get("properties", {}).items():
        found[f"{path}{name}"] = field
        found |= _walk(field, f"{path}{name}.")
    return found


def test_every_value_is_described_and_no_map_takes_unknown_keys():
    for path, field in _walk(SCHEMA).items():
        assert len(field["description"]) >= 8, path
        assert field["description"][0] == field["description"][0].upper(), path
        if "properties" in field:
            assert field["additionalProperties"] is False, path


def test_the_schema_has_every_setting_of_the_worker_but_those_that_are_the_charts():
    known = {path.removeprefix("settings.") for path in _walk(SCHEMA) if path.startswith("settings.")}
    assert set(sources.names()) - known == generated.NOT_VALUES


def test_defaults_and_schema_have_the_same_keys():
    def same(schema: dict[str, Any], defaults: dict[str, Any], path: str) -> None:
        assert set(schema["properties"]) - {"global"} == set(defaults), path
        for name, field in schema["properties"].items():
            if "properties" in field and name != "settings":
                same(field, defaults[name], f"{path}{name}.")

    same(SCHEMA, DEFAULTS, "")


def test_one_example_uses_every_value():
    def unused(schema: dict[str, Any], given: Any, path: str) -> list[str]:
        found = []
        for name, field in schema["properties"].items():
            if name not in given:
                found.append(f"{path}{name}")
            elif "properties" in field and path + name != "settings":
                found += unused(field, given[name], f"{path}{name}.")
        return found

    assert set(unused(SCHEMA, EXAMPLES["everything-on"], "")) == {
        # what excludes something that is used
        *("replicas", "model.image", "model.persistentVolumeClaim", "model.initContainer", "model.path"),
        *("secrets.kafkaSasl.usernameKey", "secrets.redis.usernameKey", "client.image.digest", "monitoring.podMonitor"),
        # what has a default that everybody keeps
        *("global", "podSecurityContext", "containerSecurityContext"),
    }


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": -1}, "/replicas"),
        ({"replicas": "two"}, "/replicas"),
        ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({"image": {"digest": "sha256:abc"}}, "/image/digest"),
        ({"image": {"version": "2"}}, "version"),
        ({"settings": {"kafka": {"bootstrap_servers": "kafka"}}}, "/settings/kafka/bootstrap_servers"),
        ({"settings": {"kafka": {"bootstrap_server": "kafka:9092"}}}, "bootstrap_server"),
        ({"settings": {"kafka": {"sasl_password": "secret"}}}, "sasl_password"),
        ({"settings": {"state": {"redis_password": "secret"}}}, "redis_password"),
        ({"settings": {"state": {"redis_url": "redis://u:hunter2@redis:6379/0"}}}, "/settings/state/redis_url"),
        ({"settings": {"state": {"redis_url": "redis://:hunter2@[fd00::1]"}}}, "/settings/state/redis_url"),
        ({"settings": {"model": {"look_ahead": "six"}}}, "/settings/model/look_ahead"),
        ({"settings": {"model": {"source": "ours.nemo"}}}, "source"),
        ({"settings": {"telemetry": {"port": 1}}}, "port"),
        ({"settings": {"drain_timeout_s": 0}}, "/settings/drain_timeout_s"),
        ({"settings": {"stream": {"sample_rate": 9000}}}, "/settings/stream/sample_rate"),
        ({"model": {"from": "ftp"}}, "/model/from"),
        ({"model": {"image": {"path": "/absolute"}}}, "/model/image/path"),
        ({"gpu": {"count": 2}}, "/gpu/count"),
        ({"probes": {"startupSeconds": 1}}, "/probes/startupSeconds"),
        ({"podDisruptionBudget": {"maxUnavailable": "half"}}, "/podDisruptionBudget/maxUnavailable"),
        ({"networkPolicy": {"kafkaPorts": [0]}}, "/networkPolicy/kafkaPorts/0"),
        ({"autoscaling": {"minReplicas": 0}}, "/autoscaling/minReplicas"),
        ({"autoscaling": {"kind": "vpa"}}, "/autoscaling/kind"),
        (
            {"autoscaling": {"prometheus": {"serverAddress": "prometheus:9090"}}},
            "/autoscaling/prometheus/serverAddress",
        ),
        ({"monitoring": {"serviceMonitor": {"interval": "often"}}}, "/monitoring/serviceMonitor/interval"),
        ({"secrets": {"kafkaSasl": {"name": "Not A Name"}}}, "/secrets/kafkaSasl/name"),
        ({"extraEnv": [{"value": "1"}]}, "/extraEnv/0"),
        ({"tolerations": {"key": "gpu"}}, "/tolerations"),
        ({"commonLabels": {"app.kubernetes.io/instance": "other"}}, "app.kubernetes.io/instance"),
        ({"podLabels": {"app.kubernetes.io/component": "other"}}, "app.kubernetes.io/component"),
        ({"podAnnotations": {"checksum/settings": "x"}}, "checksum/settings"),
        ({"resources": {"limit": {"memory": "1Gi"}}}, "limit"),
        ({"client": {"resources": {"limits": {"memory": True}}}}, "/client/resources/limits/memory"),
        ({"model": {"image": {"resources": {"limit": {}}}}}, "limit"),
        ({"tolerations": [{"kee": "gpu"}]}, "kee"),
        ({"client": {"tolerations": [{"effect": "NoShedule"}]}}, "/client/tolerations/0/effect"),
        ({"updateStrategy": {"type": "Rolling"}}, "/updateStrategy/type"),
        ({"updateStrategy": {"rollingUpdate": {"partitions": 1}}}, "partitions"),
        ({"podSecurityContext": {"runAsUsr": 1}}, "runAsUsr"),
        ({"containerSecurityContext": {"readOnlyRootFileSystem": True}}, "readOnlyRootFileSystem"),
        ({"autoscaling": {"behavior": {"scaleup": {}}}}, "scaleup"),
        ({"autoscaling": {"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 1}]}}}}, "periodSeconds"),
        (
            {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "Wait"}]},
            "/topologySpreadConstraints/0/whenUnsatisfiable",
        ),
        ({"imagePullSecrets": [{"nam": "registry"}]}, "nam"),
        ({"extraEnv": [{"name": "A", "vlaue": "1"}]}, "vlaue"),
        ({"model": {"initContainer": {"env": [{"name": "A", "value": 1}]}}}, "/model/initContainer/env/0/value"),
        ({"extraEnv": [{"name": "A", "valueFrom": {"secretRef": {}}}]}, "secretRef"),
        ({"extraEnv": [{"name": "TRUNKLINE_KAFKA__GRUOP", "value": "x"}]}, "/extraEnv/0/name"),
        ({"extraEnv": [{"name": "TRUNKLINE_TELEMETRY", "value": '{"port": 1}'}]}, "/extraEnv/0/name"),
        ({"extraArgs": ["--kafka.gruop=x"]}, "/extraArgs/0"),
        ({"extraArgs": ["--telemetry={}"]}, "/extraArgs/0"),
    ],
)
def test_the_schema_refuses_wrong_values_by_their_key(values, key):
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmValuesError) as refused:
        chart.validate_schema(values)
    assert key in str(refused.value)


@pytest.mark.parametrize(
    ("shape", "kubernetes"),
    {
        "resources": "resourcerequirements-v1",
        "toleration": "toleration-v1",
        "variable": "envvar-v1",
        "variableSource": "envvarsource-v1",
        "updateStrategy": "statefulsetupdatestrategy-apps-v1",
        "rollingUpdate": "rollingupdatestatefulsetstrategy-apps-v1",
        "podSecurityContext": "podsecuritycontext-v1",
        "containerSecurityContext": "securitycontext-v1",
        "behavior": "horizontalpodautoscalerbehavior-autoscaling-v2",
        "scaling": "hpascalingrules-autoscaling-v2",
        "scalingPolicy": "hpascalingpolicy-autoscaling-v2",
        "topologySpreadConstraint": "topologyspreadconstraint-v1",
        "pullSecret": "localobjectreference-v1",
    }.items(),
)
def test_shapes_of_kubernetes_have_the_keys_of_the_newest_and_no_others(shape, kubernetes):
    newest = kubernetes_validate.latest_version()
    file = f"kubernetes-json-schema/v{newest}-local/{kubernetes}.json"
    theirs = kubernetes_validate.utils.schema_contents(file, newest)
    ours = SCHEMA["$defs"][shape]
    assert ours["properties"].keys() == theirs["properties"].keys()
    assert ours["additionalProperties"] is False
    assert set(theirs.get("required", ())) <= set(ours.get("required", ()))


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"secrets": {"kafkaSasl": {"name": "a"}}}, "secrets.kafkaSasl.name"),
        ({"secrets": {"kafkaTls": {"name": "a"}}}, "secrets.kafkaTls.name"),
        ({"secrets": {"redis": {"name": "a"}}}, "secrets.redis.name"),
        ({"secrets": {"kafkaTls": {"certKey": "tls.crt"}}}, "secrets.kafkaTls.certKey"),
        (
            {"settings": {"kafka": {"security_protocol": "SASL_SSL"}}, "secrets": {"kafkaSasl": {"name": "a"}}},
            "secrets.kafkaSasl.usernameKey",
        ),
        (SASL | {"secrets": {"kafkaSasl": {"name": "a", "usernameKey": "b"}}}, "secrets.kafkaSasl.usernameKey"),
        (
            {
                "settings": {"state": {"store": "redis", "redis_url": "redis://r:1/0"}},
                "secrets": {"redisTls": {"name": "a"}},
            },
            "secrets.redisTls.name",
        ),
        ({"model": {"from": "image"}}, "model.image.reference"),
        ({"model": {"from": "persistentVolumeClaim"}}, "model.persistentVolumeClaim.name"),
        ({"model": {"from": "initContainer"}}, "model.initContainer.image"),
        ({"model": {"from": "path"}}, "model.path"),
        ({"replicas": 13}, "replicas"),
        ({"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 4}}, "autoscaling.minReplicas"),
        ({"topics": {"partitions": 2}, "autoscaling": {"enabled": True, "minReplicas": 3}}, "autoscaling.minReplicas"),
        (
            {"monitoring": {"podMonitor": {"enabled": True}, "serviceMonitor": {"enabled": True}}},
            "monitoring.podMonitor.enabled",
        ),
        ({"replicas": 2, "settings": {"kafka": {"instance_id": "one"}}}, "settings.kafka.instance_id"),
        (SASL, "secrets.kafkaSasl.name"),
        ({"secrets": {"clientSasl": {"name": "a", "usernameKey": "b"}}}, "secrets.clientSasl.name"),
        (
            SASL | {"secrets": {"kafkaSasl": {"name": "a"}, "clientSasl": {"name": "b"}}},
            "secrets.clientSasl.usernameKey",
        ),
        ({"secrets": {"clientTls": {"name": "a"}}}, "secrets.clientTls.name"),
        ({"settings": {"kafka": {"audio_topic": "calls", "final_topic": "calls"}}}, "settings.kafka.final_topic"),
        ({"settings": {"kafka": {"rejected_topic": "audio.chunks"}}}, "settings.kafka.rejected_topic"),
        ({"settings": {"state": {"store": "redis"}}}, "settings.state.redis_url"),
        (REDIS, "secrets.redis.name"),
        (REDIS | {"secrets": {"redis": {"name": "a", "usernameKey": "b"}}}, "secrets.redis.usernameKey"),
        ({"gpu": {"count": 0}, "settings": {"model": {"device": "cuda:0"}}}, "gpu.count"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "podDisruptionBudget.maxUnavailable"),
        ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "podDisruptionBudget.maxUnavailable"),
        ({"extraEnv": [{"name": "TRUNKLINE_DRAIN_TIMEOUT_S", "value": "600"}]}, "extraEnv: TRUNKLINE_DRAIN_TIMEOUT_S"),
        ({"extraEnv": [{"name": "TRUNKLINE_TELEMETRY__PORT", "value": "8080"}]}, "extraEnv: TRUNKLINE_TELEMETRY__PORT"),
        ({"extraEnv": [{"name": "trunkline_telemetry__host", "value": "::"}]}, "extraEnv: trunkline_telemetry__host"),
        ({"extraEnv": [{"name": "TRUNKLINE_MODEL__SOURCE", "value": "m"}]}, "extraEnv: TRUNKLINE_MODEL__SOURCE"),
        ({"extraEnv": [{"name": "TRUNKLINE_CONFIG", "value": "/f"}]}, "extraEnv: TRUNKLINE_CONFIG"),
        ({"extraEnv": [{"name": "HOME", "value": "/"}]}, "extraEnv: HOME"),
        (
            {"extraEnv": [{"name": "TRUNKLINE_STATE__REDIS_PASSWORD", "value": "hunter2"}]},
            "extraEnv: TRUNKLINE_STATE__REDIS_PASSWORD",
        ),
        ({"extraArgs": ["--drain_timeout_s=600"]}, "extraArgs: --drain_timeout_s"),
        (
            {"replicas": 2, "extraEnv": [{"name": "TRUNKLINE_KAFKA__INSTANCE_ID", "value": "one"}]},
            "extraEnv: TRUNKLINE_KAFKA__INSTANCE_ID",
        ),
        (
            {"autoscaling": {"enabled": True}, "extraArgs": ["--kafka.instance_id", "one"]},
            "extraArgs: --kafka.instance_id",
        ),
        (
            SASL | {"topics": {"create": True}, "extraEnvFrom": [{"secretRef": {"name": "kafka"}}]},
            "secrets.clientSasl.name",
        ),
        (
            {
                "topics": {"create": True},
                "settings": {"kafka": {"security_protocol": "SSL", "ssl_ca_file": "/etc/ssl/company/ca.pem"}},
            },
            "secrets.clientTls.name",
        ),
        (
            {
                "topics": {"create": True},
                "settings": {"kafka": {"security_protocol": "SSL"}},
                "extraEnv": [{"name": "TRUNKLINE_KAFKA__SSL_CERT_FILE", "value": "/vault/tls.crt"}],
            },
            "secrets.clientTls.name",
        ),
        ({"extraArgs": ["--stream.partials=false", "--telemetry.port", "8080"]}, "extraArgs: --telemetry.port"),
        ({"extraArgs": ["--model.source=m"]}, "extraArgs: --model.source"),
        ({"extraArgs": ["--config=/f"]}, "extraArgs: --config"),
        ({"extraVolumes": [{"name": "tmp", "emptyDir": {}}]}, "extraVolumes: tmp"),
        (
            {"networkPolicy": {"enabled": True}, "settings": {"telemetry": {"traces": "otlp"}}},
            "networkPolicy.extraEgress",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused_by_their_key(values, key):
    with pytest.raises(helm.HelmError, match="these values cannot work") as refused:
        render(values)
    assert f"- {key}" in str(refused.value)


SHARED = [
    *(f"kafka.{name}_topic" for name in ("audio", "final", "partial", "rejected", "streams")),
    *("kafka.bootstrap_servers", "kafka.security_protocol", "kafka.sasl_mechanism", "kafka.sasl_username"),
    *("state.store", "state.redis_url", "model.device", "telemetry.traces", "drain_timeout_s"),
]


@pytest.mark.parametrize("setting", SHARED)
def test_what_the_rest_of_the_chart_follows_is_said_in_settings_only(setting):
    for key, name, values in (
        ("extraEnv", sources.variable(setting), [{"name": sources.variable(setting), "value": "x"}]),
        ("extraArgs", f"--{setting}", [f"--{setting}=x"]),
    ):
        with pytest.raises(helm.HelmError, match="these values cannot work") as refused:
            render({key: values})
        assert f"- {key}: {name}" in str(refused.value)
        assert f"settings.{setting} " in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        SASL | {"extraEnv": [{"name": "TRUNKLINE_KAFKA__SASL_PASSWORD_FILE", "value": "/vault/kafka"}]},
        SASL | {"extraEnvFrom": [{"secretRef": {"name": "kafka"}}]},
        {"settings": {"kafka": {**SASL["settings"]["kafka"], "sasl_password_file": "/vault/kafka"}}},
        {"settings": {"state": {**REDIS["settings"]["state"], "redis_password_file": "/vault/redis"}}},
        {
            "replicas": 2,
            "extraEnv": [
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "TRUNKLINE_KAFKA__INSTANCE_ID", "value": "eu-$(POD)"},
            ],
        },
        {"extraEnv": [{"name": "TRUNKLINE_KAFKA__INSTANCE_ID", "value": "the-only-one"}]},
        {"extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "asr"}], "extraArgs": ["--kafka.group", "asr"]},
    ],
)
def test_what_comes_from_elsewhere_is_not_missed(values):
    with helm.Chart.load(str(CHART)) as chart:
        chart.validate_schema(values)
    assert render(values)


def test_all_contradictions_are_named_at_once():
    with pytest.raises(helm.HelmError) as refused:
        render({"replicas": 13, "model": {"from": "path"}, "secrets": {"kafkaTls": {"name": "a"}}})
    assert all(f"- {key}" in str(refused.value) for key in ("replicas", "model.path", "secrets.kafkaTls.name"))
