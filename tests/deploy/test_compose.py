"""What can be known about the Compose file, the images and Prometheus' file where no Docker runs."""

import importlib.resources
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.conftest import require
from worker.settings import PREFIX
from worker.sources import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
HADOLINT = Path(sys.executable).with_name("hadolint")


def _pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^ ;]+)", (ROOT / lock).read_text(), re.MULTILINE))


def test_the_file_follows_the_compose_specification():
    vendored = importlib.resources.files("check_jsonschema.builtin_schemas.vendor")
    schema = json.loads((vendored / "compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    validator.validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        validator.validate({"services": {"kafka": {"imagee": "x"}}})


def test_it_has_the_parts_of_the_service():
    assert set(SERVICES) == {"kafka", "topics", "redis", "worker", "prometheus", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_loopback(name):
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("127.0.0.1:"), f"{name} would listen on every address: {port}"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_or_built_from_a_dockerfile_that_exists(name):
    service = SERVICES[name]
    if build := service.get("build"):
        assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    else:
        assert re.search(r":v?\d+\.\d+", service["image"]), service["image"]


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_depends_on_and_mounts_exists(name):
    needs = SERVICES[name].get("depends_on", [])
    for other in needs:
        assert other in SERVICES
        if isinstance(needs, dict) and needs[other]["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other], f"{name} waits for the health of {other}"
    for mount in SERVICES[name].get("volumes", []):
        source = mount.split(":")[0]
        assert source in COMPOSE["volumes"] if source[0] not in "./" else (DEPLOY / source).exists(), mount


def test_the_worker_accepts_its_environment(monkeypatch):
    environment = SERVICES["worker"]["environment"]
    assert all(name.startswith(PREFIX) for name in environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert settings.kafka.bootstrap_servers in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    models = SERVICES["worker"]["volumes"][0].split(":")
    assert (DEPLOY / models[0] / Path(settings.model.source).relative_to(models[1])).is_file()
    assert SERVICES["worker"]["ports"][0].endswith(f":{settings.telemetry.port}")


def test_prometheus_scrapes_the_workers_port():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert jobs["trunkline-worker"] == [f"worker:{SERVICES['worker']['environment']['TRUNKLINE_TELEMETRY__PORT']}"]


def test_prometheus_and_grafana_have_the_charts_rules_and_dashboards():
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    provider = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yml").read_text())["providers"][0]
    files = ROOT / "helm" / "trunkline" / "files"
    wanted = {
        "prometheus": (config["rule_files"], "/*.yaml", files / "rules"),
        "grafana": ([provider["options"]["path"]], "", files / "dashboards"),
    }
    for service, (places, pattern, folder) in wanted.items():
        mounts = {
            target: DEPLOY / source for source, target, *_ in (m.split(":") for m in SERVICES[service]["volumes"])
        }
        (place,) = places
        assert mounts[place.removesuffix(pattern)].resolve() == folder
        assert any(folder.iterdir())


def test_prometheus_accepts_its_file():
    promtool = shutil.which("promtool")
    require(promtool, "promtool (Debian's package prometheus) is not installed")
    done = subprocess.run([promtool, "check", "config", "prometheus.yml"], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dockerfile", ["worker.Dockerfile", "producer.Dockerfile"])
def test_dockerfiles_are_sound(dockerfile):
    done = subprocess.run([HADOLINT, dockerfile], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (DEPLOY / dockerfile).read_text()
    assert re.search(r"^USER (?!0|root)", text, re.MULTILINE), "the image must not run as root"
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source


def test_the_images_locks_are_parts_of_the_one_lock():
    locks = ("requirements.lock", "deploy/worker.lock", "deploy/producer.lock")
    everything, worker, producer = map(_pins, locks)
    assert producer.items() < worker.items() < everything.items()
    assert "torch" in worker
    assert "torch" not in producer


@pytest.mark.parametrize("lock", ["requirements.lock", "deploy/worker.lock", "deploy/producer.lock"])
def test_a_lock_pins_and_hashes_everything_and_names_no_host(lock):
    text = (ROOT / lock).read_text()
    assert "://" not in text
    for requirement in re.split(r"\n(?! )", text.strip()):
        assert re.match(r"[\w.-]+==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
