"""What docs/install.md tells a newcomer to write, held against the files that it speaks of and against Kubernetes."""

import re
from pathlib import Path

import kubernetes_validate
import yaml

from tests.helm.chart import EXAMPLES, Loader, only, pod_specs, rendered, worker

PAGE = (Path(__file__).parents[2] / "docs" / "install.md").read_text()
BLOCKS = [
    list(yaml.load_all(block, Loader)) for block in re.findall(r"^```yaml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
]
LOADER = [each for block in BLOCKS for each in block if "kind" in each]


def test_the_first_values_are_the_example():
    assert [EXAMPLES["minimal"]] in BLOCKS


def test_the_first_values_name_an_image_that_the_page_builds():
    built = re.findall(r"^    docker build -f (\S+) +-t (\S+)", PAGE, re.MULTILINE)
    assert ("deploy/worker-cpu.Dockerfile", worker(rendered("minimal"))["containers"][0]["image"]) in built


def test_the_loaders_objects_are_right_and_fill_the_claim_that_the_worker_reads():
    for each in LOADER:
        kubernetes_validate.validate(each, "1.28", strict=True)
    claim, pod = only(LOADER, "PersistentVolumeClaim"), only(LOADER, "Pod")
    spec = worker(rendered("minimal"))
    (mounted,) = [volume for volume in spec["volumes"] if volume["name"] == "model"]
    assert mounted["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (written,) = pod["spec"]["volumes"]
    assert written["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == spec["containers"][0]["image"]
    (mount,) = container["volumeMounts"]
    name = pod["metadata"]["name"]
    file = EXAMPLES["minimal"]["model"]["persistentVolumeClaim"]["path"]
    assert f"kubectl cp demo/models/{file} {name}:{mount['mountPath']}/{file}" in PAGE
    # the namespace may enforce Pod Security `restricted`
    given = spec["securityContext"]
    assert {key: given[key] for key in pod["spec"]["securityContext"]} == pod["spec"]["securityContext"]
    assert {"runAsNonRoot", "runAsUser", "fsGroup", "seccompProfile"} <= pod["spec"]["securityContext"].keys()
    assert container["securityContext"] == spec["containers"][0]["securityContext"]


def test_the_log_of_the_topics_job_is_asked_of_a_job_that_there_is():
    (job,) = (name for name in pod_specs(rendered("minimal")) if name.endswith("-topics"))
    assert f"kubectl logs job/{job.removeprefix('calls-')}" in PAGE  # the page calls the release as the chart
