"""The chart through real Helm (its Go library) and the schemas of Kubernetes."""

from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

from worker.sources import load

CHART = Path(__file__).parents[2] / "helm" / "trunkline"
# The oldest and the newest Kubernetes that the chart promises and the schemas know.
VERSIONS = ("1.25", "1.37")
VALUES = {
    "defaults": {},
    "own model file": {
        "replicas": 3,
        "image": {"repository": "registry.example/trunkline-worker", "tag": "2"},
        "settings": {"model": {"source": "/models/ours.nemo", "look_ahead": 1}, "stream": {"endpoint_ms": 500}},
        "resources": {"limits": {"memory": "4Gi"}},
        "nodeSelector": {"gpu": "yes"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "extraVolumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        "extraVolumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
    },
}


def _render(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="calls", namespace="speech")
    documents = [
        document
        for name, text in files.items()
        if name.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_strict_lint_finds_nothing(values):
    report = helm.lint(str(CHART), values, strict=True)
    # Helm recommends an icon; that is the only thing it may say.
    assert report["errors"] == []
    assert [m["error"] for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_kubernetes_accepts_every_object(values, version):
    rendered = _render(values)
    assert set(rendered) == {"ConfigMap", "Service", "StatefulSet"}
    for document in rendered.values():
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_worker_accepts_the_settings_file(values, tmp_path, monkeypatch):
    rendered = _render(values)
    file = tmp_path / "settings.yaml"
    file.write_text(rendered["ConfigMap"]["data"]["settings.yaml"])
    pod = rendered["StatefulSet"]["spec"]["template"]["spec"]
    for variable in pod["containers"][0]["env"]:
        monkeypatch.setenv(variable["name"], variable["value"].replace("/etc/trunkline", str(tmp_path)))
    settings = load()
    assert settings.telemetry.host == "0.0.0.0"
    assert settings.model.source == values.get("settings", {}).get("model", {}).get("source", settings.model.source)
    assert settings.stream.endpoint_ms == (500 if values else 800)
    assert pod["terminationGracePeriodSeconds"] > settings.drain_timeout_s


def test_probes_and_service_lead_to_the_telemetry_port():
    rendered = _render({})
    worker = rendered["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]
    settings = yaml.safe_load(rendered["ConfigMap"]["data"]["settings.yaml"])
    (port,) = worker["ports"]
    assert port["containerPort"] == settings["telemetry"]["port"] == 9090
    paths = {probe: worker[probe]["httpGet"] for probe in worker if probe.endswith("Probe")}
    assert {probe: get["path"] for probe, get in paths.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    assert {get["port"] for get in paths.values()} == {port["name"]}
    assert rendered["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
    labels = rendered["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert rendered["Service"]["spec"]["selector"].items() <= labels.items()


def test_services_of_the_namespace_do_not_appear_as_settings_in_the_environment():
    assert _render({})["StatefulSet"]["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_other_settings_make_other_pods_and_the_same_settings_do_not():
    def template(values: dict[str, Any]) -> dict[str, Any]:
        return _render(values)["StatefulSet"]["spec"]["template"]

    assert template({}) == template({"replicas": 5})
    assert template({}) != template({"settings": {"stream": {"endpoint_ms": 500}}})


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 2},
        {"replicas": -1},
        {"image": {"pullPolicy": "Sometimes"}},
        {"settings": {"kafka": {"bootstrap_servers": ""}}},
        {"settings": {"model": {"look_ahead": "six"}}},
    ],
)
def test_wrong_values_are_refused(values):
    with helm.Chart.load(str(CHART)) as chart, pytest.raises(helm.HelmError):
        chart.validate_schema(values)


def test_the_notes_name_the_release():
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render({}, name="calls", namespace="speech")
    notes = next(text for name, text in files.items() if name.endswith("NOTES.txt"))
    assert "statefulset/calls-trunkline" in notes
    assert "--namespace speech" in notes
