"""Every object of every values file: linted, and held against the schemas of Kubernetes and of the operators."""

import helm_python as helm
import jsonschema
import kubernetes_validate
import pytest

from tests.helm import crds
from tests.helm.chart import CHART, VALUES, kinds, objects, render, rendered

NEWEST = kubernetes_validate.latest_version().rpartition(".")[0]
VERSIONS = ("1.28", "1.32", NEWEST)
ALWAYS = ["ConfigMap", "Service", "StatefulSet"]
WITH = ["ConfigMap", "Pod", "PodDisruptionBudget", "ServiceAccount"]  # the test call's and what is on by default
KINDS = {
    "everything-off": ALWAYS,
    "minimal": [*ALWAYS, *WITH, "Job"],
    "defaults": [*ALWAYS, *WITH],
    "image-volume": [*ALWAYS, *WITH],
    "init-container": [*ALWAYS, *WITH],
    "hpa": [*ALWAYS, *WITH, "HorizontalPodAutoscaler"],
    "pod-monitor": [*ALWAYS, *WITH, "PodMonitor"],
    "tls-everywhere": [*ALWAYS, *WITH, "Job", *["NetworkPolicy"] * 3],
    "gpu-production": [
        *ALWAYS,
        *WITH,
        *["ConfigMap"] * 3,
        *["NetworkPolicy"] * 3,
        *("Job", "PrometheusRule", "ScaledObject", "ServiceMonitor"),
    ],
}
KINDS["everything-on"] = [*KINDS["gpu-production"], "ConfigMap", "ConfigMap"]
# A volume that is an image is newer than some clusters; the README says so.
TOO_OLD = {("image-volume", "1.28")}


@pytest.mark.parametrize("name", VALUES)
def test_strict_lint_finds_nothing(name):
    report = helm.lint(str(CHART), VALUES[name], strict=True)
    assert report["errors"] == []
    # Helm recommends an icon; that is the only thing it may say.
    assert [m["error"] for m in report["messages"] if m["severity"] > 1] == []


@pytest.mark.parametrize("name", VALUES)
def test_the_objects_are_those_that_were_asked_for(name):
    assert kinds(rendered(name)) == sorted(KINDS[name])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", VALUES)
def test_schemas_accept_every_object(name, version):
    for document in rendered(name):
        if crds.validate(document):
            continue
        if (name, version) in TOO_OLD and document["kind"] == "StatefulSet":
            with pytest.raises(kubernetes_validate.ValidationError, match="image"):
                kubernetes_validate.validate(document, version, strict=True)
            continue
        kubernetes_validate.validate(document, version, strict=True)


def test_a_key_that_a_custom_resource_does_not_have_would_be_found():
    for kind in ("ScaledObject", "ServiceMonitor", "PrometheusRule"):
        (document,) = [each for each in objects(VALUES["everything-on"]) if each["kind"] == kind]
        assert crds.validate(document)
        document["spec"]["colour"] = "blue"
        with pytest.raises(jsonschema.ValidationError, match="colour"):
            crds.validate(document)


@pytest.mark.parametrize("name", VALUES)
def test_every_object_has_the_releases_labels_and_namespace(name):
    for document in rendered(name):
        if document["metadata"]["name"].endswith(("-extra", "-extra-text")):
            continue  # the user's
        assert document["metadata"]["namespace"] == "speech"
        assert document["metadata"]["labels"]["app.kubernetes.io/instance"] == "calls"
        assert document["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def test_names_stay_within_what_kubernetes_allows():
    # a pod carries its StatefulSet's name and a hash, a Job's and a Service's name in labels
    longest = {"StatefulSet": 52, "Job": 63, "Service": 63}
    for document in objects(VALUES["gpu-production"], name="a" * 53):
        assert len(document["metadata"]["name"]) <= longest.get(document["kind"], 253)
        for value in document["metadata"]["labels"].values():
            assert len(value) <= 63


@pytest.mark.parametrize("name", VALUES)
def test_the_notes_say_how_to_send_a_first_call(name):
    (notes,) = [text for file, text in render(VALUES[name]).items() if file.endswith("NOTES.txt")]
    assert "trunkline produce call.wav" in notes
    assert ("helm --namespace speech test calls" in notes) == ("Pod" in KINDS[name])
    assert "<no value>" not in notes
    assert "%!" not in notes


def test_the_package_has_all_that_the_templates_read(tmp_path):
    archive = helm.package(str(CHART), destination=str(tmp_path))
    path = archive if isinstance(archive, str) else str(next(tmp_path.glob("*.tgz")))
    with helm.Chart.load(path) as chart:
        packed = chart.render(VALUES["everything-on"], name="calls", namespace="speech")
    assert packed == render(VALUES["everything-on"])
