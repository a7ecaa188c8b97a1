"""What a pod is given, taken by the real readers of settings: the worker's loader, and the clients' command lines."""

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from producer import options as produce
from producer.flags import cluster
from tests.certificates import Authority
from tests.helm.chart import CHART, VALUES, Object, only, pod_specs, render, rendered, worker
from tests.helm.pod import Container, place
from trunkline import cli, tail
from worker.ingest import topics_cli
from worker.settings import Settings
from worker.sources import Loaded, load_with_sources

pytestmark = pytest.mark.usefixtures("no_settings")
WITH_TOPICS = ["minimal", "tls-everywhere", "gpu-production", "everything-on"]
WITH_TEST = [name for name in VALUES if name != "everything-off"]


@pytest.fixture
def no_settings(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(("TRUNKLINE_", "KAFKA_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    """A secret of any name: real certificates, a user and passwords."""
    folder = tmp_path_factory.mktemp("authority")
    authority = Authority(folder)
    certificate = authority.issue("client")
    data = {
        "ca.crt": authority.ca.read_text(),
        "tls.crt": certificate.read_text(),
        "tls.key": certificate.with_suffix(".key").read_text(),
        "username": "somebody",
        "password": "hidden\n",
        "token": "hf_hidden",
        # by other keys than the defaults
        **{f"{owner}.pem": authority.ca.read_text() for owner in ("kafka", "admin", "redis")},
        **{f"{owner}-password": f"of the {owner}" for owner in ("worker", "admin", "redis")},
        "access-token": "hf_other",
    }
    return {"kind": "Secret", "stringData": data}


def _placed(name: str, spec: Object, container: str, root: Path, secret: Object) -> Container:
    def lookup(kind: str, of: str) -> Object:
        return secret if kind == "Secret" else only(rendered(name), kind, of)

    return place(spec, container, root, lookup)


def _loaded(name: str, root: Path, secret: Object, monkeypatch: pytest.MonkeyPatch) -> tuple[Loaded, Container]:
    container = _placed(name, worker(rendered(name)), "worker", root, secret)
    for variable, value in container.env.items():
        monkeypatch.setenv(variable, value)
    command, *flags = container.args
    assert command == "worker"
    return load_with_sources(flags), container


@pytest.mark.parametrize("name", VALUES)
def test_the_worker_takes_its_settings(name, tmp_path, secret, monkeypatch):
    loaded, container = _loaded(name, tmp_path, secret, monkeypatch)
    settings = loaded.settings
    assert settings.telemetry.host == "0.0.0.0"
    (port,) = only(rendered(name), "Service")["spec"]["ports"]
    (own,) = worker(rendered(name))["containers"][0]["ports"]
    assert own == {"name": port["targetPort"], "containerPort": settings.telemetry.port}
    assert port["port"] == settings.telemetry.port
    given: dict[str, Any] = VALUES[name].get("settings", {})
    for section, content in given.items():
        for key, value in content.items() if isinstance(content, dict) else [(None, content)]:
            found = getattr(settings, section) if key is None else getattr(getattr(settings, section), key)
            where = section if key is None else f"{section}.{key}"
            if loaded.sources[where].startswith("file"):
                assert found == value, where
    spec = worker(rendered(name))
    assert spec["terminationGracePeriodSeconds"] >= settings.drain_timeout_s + 10
    gpus = spec["containers"][0].get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0)
    assert settings.model.device == ("cuda" if gpus else "cpu")
    for mount in container.mounts:
        assert mount == "/tmp" or any(str(mount) in text for text in (*MOUNTED, str(VALUES[name]))), mount


MOUNTED = ("/etc/trunkline", "/model", "/model-cache", *(
    f"/etc/trunkline-secrets/{each}" for each in ("kafka-sasl", "kafka-tls", "redis", "redis-tls")
))  # fmt: skip


@pytest.mark.parametrize(
    ("values", "threads"),
    [
        ({"gpu": {"count": 0}, "resources": {"limits": {"cpu": "8"}}}, 4),
        ({"gpu": {"count": 0}, "resources": {"limits": {"cpu": 7.5}, "requests": {"cpu": "2"}}}, 3),
        ({"gpu": {"count": 0}, "resources": {"requests": {"cpu": "6500m"}}}, 3),
        ({"gpu": {"count": 0}, "resources": {"requests": {"cpu": "500m"}}}, 1),
        # nothing to go by, or what somebody knows better: the worker's default and what is said
        ({"gpu": {"count": 0}, "resources": None}, None),
        ({"gpu": {"count": 1}, "resources": {"requests": {"cpu": "8"}}}, None),
        ({"gpu": {"count": 0}, "settings": {"model": {"threads": 7}}}, 7),
    ],
)
def test_a_worker_on_the_cpu_takes_threads_by_what_its_pod_asks_for(values, threads, tmp_path, secret, monkeypatch):
    name = f"threads of {values}"
    monkeypatch.setitem(VALUES, name, values)
    loaded, _ = _loaded(name, tmp_path, secret, monkeypatch)
    assert loaded.settings.model.threads == threads


def test_secrets_reach_the_worker_as_files_and_variables_and_never_in_the_settings_file(tmp_path, secret, monkeypatch):
    loaded, container = _loaded("gpu-production", tmp_path, secret, monkeypatch)
    kafka, state = loaded.settings.kafka, loaded.settings.state
    assert kafka.security.client()["sasl_plain_username"] == "somebody"
    assert kafka.security.client()["sasl_plain_password"] == "hidden"
    assert state.password == "hidden"
    assert loaded.sources["kafka.sasl_username"] == "TRUNKLINE_KAFKA__SASL_USERNAME"
    assert "hidden" not in container.path("/etc/trunkline/settings.yaml").read_text()
    assert "hidden" not in str(container.env)


def test_the_files_of_every_certificate_are_those_of_its_secret(tmp_path, secret, monkeypatch):
    loaded, container = _loaded("tls-everywhere", tmp_path, secret, monkeypatch)
    kafka, state = loaded.settings.kafka, loaded.settings.state
    for folder, files in {
        "kafka-tls": (kafka.ssl_ca_file, kafka.ssl_cert_file, kafka.ssl_key_file),
        "redis-tls": (state.redis_ca_file, state.redis_cert_file, state.redis_key_file),
    }.items():
        mounted = container.path(f"/etc/trunkline-secrets/{folder}")
        assert files == tuple(str(mounted / file) for file in ("ca.crt", "tls.crt", "tls.key"))


def test_every_secret_is_read_by_the_keys_that_the_values_name(tmp_path, secret, monkeypatch):
    (tmp_path / "job").mkdir()
    loaded, _ = _loaded("everything-on", tmp_path, secret, monkeypatch)
    job = _placed(
        "everything-on", pod_specs(rendered("everything-on"))["speech-asr-topics"], "topics", tmp_path / "job", secret
    )
    for variable, value in job.env.items():
        monkeypatch.setenv(variable, value)
    kafka, state = loaded.settings.kafka, loaded.settings.state
    admin = cluster(topics_cli._parser().parse_args(job.args[1:])).security
    for security, owner, ca in ((kafka.security, "worker", "kafka.pem"), (admin, "admin", "admin.pem")):
        assert security.client()["sasl_plain_password"] == f"of the {owner}"
        assert security.ssl_ca_file.endswith(f"/{ca}")
    assert state.password == "of the redis"
    assert state.redis_ca_file.endswith("/redis.pem")


def test_a_user_of_redis_can_come_from_its_secret(tmp_path, secret, monkeypatch):
    state = {"store": "redis", "redis_url": "redis://redis:6379/0"}
    values = {"settings": {"state": state}, "secrets": {"redis": {"name": "redis", "usernameKey": "username"}}}
    monkeypatch.setitem(VALUES, "redis-user", values)
    loaded, _ = _loaded("redis-user", tmp_path, secret, monkeypatch)
    assert loaded.settings.state.redis_username == "somebody"


def test_the_token_of_hugging_face_is_a_variable(tmp_path, secret, monkeypatch):
    _, container = _loaded("everything-on", tmp_path, secret, monkeypatch)
    assert container.env["HF_TOKEN"] == "hf_other"
    assert container.env["HF_HOME"] == str(container.path("/model-cache"))


def test_flags_win_over_variables_and_variables_over_settings(tmp_path, secret, monkeypatch):
    loaded, _ = _loaded("everything-on", tmp_path, secret, monkeypatch)
    assert loaded.settings.stream.endpoint_ms == 700
    assert loaded.settings.stream.partials is False
    assert loaded.settings.stream.language == "en"


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("defaults", "nvidia/nemotron-speech-streaming-en-0.6b"),
        ("minimal", "/model/demo.nemo"),
        ("gpu-production", "/model/nemotron-speech-streaming.nemo"),
        ("image-volume", "/model/models/model.nemo"),
        ("init-container", "/model/model.nemo"),
        ("everything-off", "/models/ours.nemo"),
    ],
)
def test_the_model_is_where_the_pod_has_it(name, source, tmp_path, secret, monkeypatch):
    loaded, container = _loaded(name, tmp_path, secret, monkeypatch)
    assert loaded.settings.model.source == (str(container.path(source)) if source.startswith("/") else source)


def test_the_init_container_copies_the_model_to_where_the_worker_looks(tmp_path, secret, monkeypatch):
    loaded, container = _loaded("gpu-production", tmp_path, secret, monkeypatch)
    (init,) = worker(rendered("gpu-production"))["initContainers"]
    copy, source, target = init["command"]
    assert (copy, source) == ("cp", "/models/nemotron-speech-streaming.nemo")
    assert str(container.path(target)) == loaded.settings.model.source
    assert {"name": "model", "mountPath": "/model"} in init["volumeMounts"]


@pytest.mark.parametrize("name", WITH_TOPICS)
def test_the_topics_job_is_a_right_command_line(name, tmp_path, secret, monkeypatch):
    container = _placed(name, pod_specs(rendered(name))[_job(name)], "topics", tmp_path, secret)
    for variable, value in container.env.items():
        monkeypatch.setenv(variable, value)
    command, *arguments = container.args
    assert command == "topics"
    options = topics_cli._parser().parse_args(arguments)
    values = VALUES[name]
    assert options.partitions == values["topics"].get("partitions", 12)
    assert options.replication_factor == values["topics"].get("replicationFactor", 3)
    kafka = _settings(name).kafka
    assert options.audio == kafka.audio_topic
    assert options.streams == kafka.streams_topic
    found = cluster(options)
    assert found.bootstrap_servers == kafka.bootstrap_servers
    assert found.security.security_protocol == kafka.security_protocol
    found.client()  # certificates and passwords can be read
    assert found.security.sasl_mechanism == kafka.sasl_mechanism
    if found.security.has_sasl:
        assert found.security.sasl_username == "somebody"
    if name == "tls-everywhere":
        mounted = container.path("/etc/trunkline-secrets/kafka-tls")
        assert found.security.ssl_cert_file == str(mounted / "tls.crt")
        assert found.security.ssl_key_file == str(mounted / "tls.key")


@pytest.mark.parametrize("name", WITH_TEST)
def test_the_test_call_is_a_right_command_line(name, tmp_path, secret, monkeypatch):
    spec = only(rendered(name), "Pod")["spec"]
    container = _placed(name, spec, "call", tmp_path, secret)
    for variable, value in container.env.items():
        monkeypatch.setenv(variable, value)
    assert container.command is not None
    shell, script = container.command
    assert subprocess.run([shell, "-n", script], capture_output=True, text=True).stderr == ""
    audio, final, partial, seconds = container.args
    assert 60 < int(seconds) < spec["activeDeadlineSeconds"]
    kafka = _settings(name).kafka
    assert (audio, final, partial) == (kafka.audio_topic, kafka.final_topic, kafka.partial_topic)
    sent = produce.parse([str(container.path("/test/call.flac")), "--call-id", "x", "--topic", audio])
    assert sent.cluster.security.security_protocol == kafka.security_protocol
    assert Path(sent.paths[0]).read_bytes() == (CHART / "files" / "test" / "call.flac").read_bytes()
    followed = tail._parser().parse_args(
        ["--call", "x", "--until-end", "--json", "--final-topic", final, "--partial-topic", partial]
    )
    cluster(followed).client()


@pytest.mark.parametrize("name", VALUES)
def test_the_commands_of_the_notes_are_right_command_lines(name):
    parsers = {"topics": topics_cli._parser().parse_args, "produce": produce.parse, "tail": tail._parser().parse_args}
    assert set(parsers) <= set(cli._COMMANDS)
    (notes,) = [text for file, text in render(VALUES[name]).items() if file.endswith("NOTES.txt")]
    found = {}
    for line in notes.splitlines():
        if line.startswith("  trunkline "):
            _, command, *arguments = shlex.split(line.removesuffix("&"))
            found[command] = parsers[command](arguments)
    created = VALUES[name].get("topics", {}).get("create", False)
    assert set(found) == {"produce", "tail"} | (set() if created else {"topics"})
    kafka = _settings(name).kafka
    assert {options.bootstrap_servers for options in found.values()} == {kafka.bootstrap_servers}
    assert found["produce"].topic == kafka.audio_topic
    assert (found["tail"].final_topic, found["tail"].partial_topic) == (kafka.final_topic, kafka.partial_topic)
    if not created:
        assert found["topics"].partitions == VALUES[name].get("topics", {}).get("partitions", 12)
        assert found["topics"].rejected == kafka.rejected_topic


def _job(name: str) -> str:
    return str(only(rendered(name), "Job")["metadata"]["name"])


def _settings(name: str) -> Settings:
    """Of the values as they are written; files are the pods' concern."""
    kafka = VALUES[name].get("settings", {}).get("kafka", {})
    return Settings(kafka={"bootstrap_servers": "kafka:9092", **kafka}, model={"source": "any"})
