"""`trunkline doctor` against each fault, on a real broker, a real Redis and real model files."""

import asyncio
import json
import tarfile
import time

import pytest

from tests.integration.security.broker import PASSWORD
from tests.integration.support import MODEL, unique
from tests.state.conftest import local_redis
from wire import Topics
from wire.topics import TopicSpec
from worker.doctor.cli import main
from worker.doctor.cluster import Cluster, copies
from worker.ingest import topics as admin
from worker.settings import KafkaSettings
from worker.sources import load

pytestmark = pytest.mark.kafka


class Doctor:
    """Runs the command; keeps what it found by what was looked at."""

    def __init__(self, servers: str, topics: Topics, capsys) -> None:
        self._capsys = capsys
        self.group = unique("doctor")
        self.flags = ["--json", f"--kafka.bootstrap_servers={servers}", f"--kafka.group={self.group}"]
        for name in Topics.__dataclass_fields__:
            self.flags.append(f"--kafka.{name}_topic={getattr(topics, name)}")

    def __call__(self, *flags: str) -> tuple[int, dict[str, list[dict]]]:
        model = [] if any(flag.startswith("--model.source") for flag in flags) else [f"--model.source={MODEL}"]
        code = main([*self.flags, *model, *flags])
        found: dict[str, list[dict]] = {}
        for line in self._capsys.readouterr().out.splitlines():
            finding = json.loads(line)
            found.setdefault(finding["what"], []).append(finding)
            assert (finding["level"] in ("warning", "error")) == bool(finding["remedy"]), finding
        assert code == int(any(each["level"] == "error" for findings in found.values() for each in findings))
        return code, found

    def error(self, what: str, *flags: str) -> dict:
        """The one error, which is of this kind."""
        code, found = self(*flags)
        errors = [finding for findings in found.values() for finding in findings if finding["level"] == "error"]
        assert code == 1
        assert [finding["what"] for finding in errors] == [what], errors
        return errors[0]


@pytest.fixture
def doctor(secure, secured_topics, capsys):
    return Doctor(secure.kafka.bootstrap_servers, secured_topics, capsys)


def test_nothing_is_wrong_where_nothing_is(doctor):
    code, found = doctor()
    levels = {what: [finding["level"] for finding in findings] for what, findings in found.items()}
    assert code == 0
    assert levels.pop("device") in (["ok"], ["warning"])  # a machine without a GPU is told so
    assert levels == {
        "broker": ["ok"],
        "topics' ACLs": ["ok"],
        "group's ACL": ["ok"],
        "topics": ["ok"],
        "retention": ["ok"],
        "transactions": ["ok"],
        "clock": ["ok"],
        "state store": ["skipped"],
        "model": ["ok"],
    }


def test_for_people_each_finding_is_a_line_and_what_to_do_another(doctor, capsys):
    flags = [flag for flag in doctor.flags if flag != "--json"]
    assert main([*flags, f"--model.source={MODEL}", "--model.look_ahead=5"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("error    model: model.look_ahead is 5"))
    assert lines[at + 1].startswith("         do: ")
    assert lines[-1].startswith("1 errors, ")


def test_it_leaves_nothing_behind(doctor, secure, secured_topics):
    doctor()
    ends = asyncio.run(_end_offsets(secure.kafka.bootstrap_servers, secured_topics))
    assert [name for name, end in ends.items() if end > 1] == []  # one marker at most, which no reader sees


async def _end_offsets(servers, topics):
    from aiokafka import AIOKafkaConsumer, TopicPartition

    async with AIOKafkaConsumer(bootstrap_servers=servers) as consumer:
        names = [getattr(topics, name) for name in Topics.__dataclass_fields__]
        return {name: (await consumer.end_offsets([p := TopicPartition(name, 0)]))[p] for name in names}


def test_wrong_settings(doctor):
    code, found = doctor("--batching.slots=0", "--kafka.security_protocol=SSL", "--kafka.sasl_username=u")
    assert code == 1
    assert [finding["text"].split(":")[0] for finding in found["settings"]] == [
        "batching.slots",
        "kafka.sasl_username",
    ]


def test_no_broker(doctor):
    assert "nobody listens" in doctor.error("broker", "--kafka.bootstrap_servers=127.0.0.1:1")["text"]


def test_wrong_credentials(doctor, secure, monkeypatch):
    monkeypatch.setenv("TRUNKLINE_KAFKA__SASL_PASSWORD", "wrong")
    servers = f"--kafka.bootstrap_servers={secure.kafka.address('CLEAR')}"
    sasl = ["--kafka.security_protocol=SASL_PLAINTEXT", "--kafka.sasl_username=scram"]
    assert "refuses the credentials" in doctor.error("broker", servers, *sasl)["text"]


@pytest.mark.parametrize(
    ("listener", "said"),
    [("EXPIRED", "has expired"), ("OTHERNAME", "is not for"), ("MUTUAL", "asks for a client certificate")],
)
def test_certificates(doctor, secure, listener, said):
    tls = ["--kafka.security_protocol=SSL", f"--kafka.ssl_ca_file={secure.ca}"]
    assert said in doctor.error("broker", f"--kafka.bootstrap_servers={secure.kafka.address(listener)}", *tls)["text"]


def test_a_missing_topic(doctor):
    found = doctor.error("topics", "--kafka.final_topic=nowhere.final")
    assert found["text"] == "topic nowhere.final does not exist"
    assert "trunkline topics create" in found["remedy"]


def test_another_partition_count_and_other_settings(doctor, secure):
    servers, name = secure.kafka.bootstrap_servers, unique("other")
    config = {"cleanup.policy": "delete", "segment.bytes": "16777216", "max.compaction.lag.ms": "60000"}
    spec = TopicSpec(name, 3, config)
    asyncio.run(admin.create([spec], bootstrap_servers=servers))
    _, found = doctor(f"--kafka.streams_topic={name}")
    asyncio.run(admin.delete([name], bootstrap_servers=servers))
    first, second = found["topics"]
    assert "has 3 partitions" in first["text"]
    assert "cleanup.policy=delete" in second["text"]


def test_retention_against_the_longest_call(doctor, secure, secured_topics):
    found = doctor.error("retention", "--longest-call", "25")
    assert "keeps audio for 24 h; the longest call is taken to be 25 h" in found["text"]
    assert "retention.ms=180000000" in found["remedy"]
    spec = TopicSpec(unique("cut"), 4, {"retention.bytes": "1000000", "message.timestamp.type": "LogAppendTime"})
    asyncio.run(admin.create([spec], bootstrap_servers=secure.kafka.bootstrap_servers))
    code, found = doctor(f"--kafka.audio_topic={spec.name}")
    asyncio.run(admin.delete([spec.name], bootstrap_servers=secure.kafka.bootstrap_servers))
    assert (code, found["retention"][0]["level"]) == (0, "warning")
    assert "1000000 bytes" in found["retention"][0]["text"]


def test_topics_on_one_of_several_brokers(secure, secured_topics):
    """The broker here is alone; that it were one of three is all that is made up."""
    states = asyncio.run(admin.describe([secured_topics.audio], bootstrap_servers=secure.kafka.bootstrap_servers))
    found = copies(states.values(), brokers=3)
    assert (found.level, found.text) == ("warning", f"{secured_topics.audio} lie on one broker each")
    assert "replication factor" in found.remedy
    assert copies(states.values(), brokers=1) is None


def test_transactions_that_may_not_last_so_long(doctor):
    found = doctor.error("transactions", "--kafka.transaction_timeout_ms=3600000")
    assert "longer than the brokers allow" in found["text"]
    assert "transaction.max.timeout.ms" in found["remedy"]


class TestAcls:
    @pytest.fixture
    def user(self, secure, doctor, secured_topics, monkeypatch):
        """A user of this test's own; returns its name and the flags of a doctor who is that user."""
        name = unique("user")
        secure.user(name)
        monkeypatch.setenv("TRUNKLINE_KAFKA__SASL_PASSWORD", PASSWORD)
        doctor.flags[1] = f"--kafka.bootstrap_servers={secure.kafka.address('CLEAR')}"
        doctor.flags += ["--kafka.security_protocol=SASL_PLAINTEXT", f"--kafka.sasl_username={name}"]
        return name

    def test_who_may_do_nothing_is_told_all_that_is_needed(self, doctor, user, secured_topics):
        code, found = doctor()
        assert code == 1
        assert len(found["topics' ACLs"]) == 5
        for finding in found["topics' ACLs"]:
            assert f"--allow-principal User:{user} --topic " in finding["remedy"]
        assert f"--group {doctor.group} --operation Read" in found["group's ACL"][0]["remedy"]

    def test_the_rights_of_the_security_page_are_enough(self, doctor, user, secure, secured_topics):
        secure.may_work(user, secured_topics, doctor.group)
        code, found = doctor()
        assert code == 0, found

    def test_each_right_that_is_missing_is_named(self, doctor, user, secure, secured_topics):
        names = secured_topics
        secure.allow(user, "TOPIC", names.audio, "READ")
        secure.allow(user, "TOPIC", names.final, "DESCRIBE_CONFIGS", "DESCRIBE")
        secure.allow(user, "TOPIC", names.partial, "WRITE", "DESCRIBE_CONFIGS")
        secure.allow(user, "TOPIC", names.rejected, "WRITE", "DESCRIBE_CONFIGS")
        secure.allow(user, "TOPIC", names.streams, "READ", "WRITE", "DESCRIBE_CONFIGS")
        secure.allow(user, "GROUP", doctor.group, "DESCRIBE")
        _, found = doctor()
        texts = [finding["text"] for finding in found["topics' ACLs"]]
        assert texts == [
            f"topic {names.audio} may not be used for DescribeConfigs",
            f"topic {names.final} may not be used for Write",
        ]
        assert "may not be joined" in found["group's ACL"][0]["text"]
        (transactions,) = found["transactions"]
        assert transactions["level"] == "error"
        assert f"--transactional-id {doctor.group}/{names.audio}/ " in transactions["remedy"]


@pytest.mark.parametrize(("ahead", "level"), [(0.0, "ok"), (5.0, "warning"), (-5.0, "warning"), (4000.0, "error")])
def test_the_clock_against_the_brokers(secure, secured_topics, ahead, level):
    async def look():
        names = {f"{name}_topic": getattr(secured_topics, name) for name in Topics.__dataclass_fields__}
        settings = KafkaSettings(bootstrap_servers=secure.kafka.bootstrap_servers, group=unique("clock"), **names)
        cluster = Cluster(settings, 3600, clock=lambda: time.time() + ahead)
        return {finding.what: finding async for finding in cluster.check()}

    found = asyncio.run(look())["clock"]
    assert found.level == level
    if ahead:
        assert f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the broker's" in found.text


class TestRedis:
    FLAGS = ("--state.store=redis", "--state.timeout_ms=1000")

    def test_a_good_one(self, doctor):
        with local_redis() as server:
            code, found = doctor(*self.FLAGS, f"--state.redis_url={server.url}")
        assert (code, [finding["level"] for finding in found["state store"]]) == (0, ["ok"])

    def test_one_that_forgets_sooner_than_the_audio(self, doctor):
        with local_redis() as server:
            _, found = doctor(*self.FLAGS, f"--state.redis_url={server.url}", "--state.ttl_s=3600")
        assert [finding["level"] for finding in found["state store"]] == ["ok", "warning"]

    def test_none_there(self, doctor):
        assert (
            "127.0.0.1:1" in doctor.error("state store", *self.FLAGS, "--state.redis_url=redis://127.0.0.1:1")["text"]
        )

    def test_wrong_password_and_missing_rights(self, doctor, monkeypatch):
        with local_redis({"user": "worker on >secret ~other:* +set +get +unlink +ping"}) as server:
            flags = [*self.FLAGS, f"--state.redis_url={server.url}", "--state.redis_username=worker"]
            monkeypatch.setenv("TRUNKLINE_STATE__REDIS_PASSWORD", "wrong")
            assert "state.redis_password" in doctor.error("state store", *flags)["remedy"]
            monkeypatch.setenv("TRUNKLINE_STATE__REDIS_PASSWORD", "secret")
            assert "ACL SETUSER worker ~trunkline:*" in doctor.error("state store", *flags)["remedy"]

    def test_one_that_is_full(self, doctor):
        with local_redis({"maxmemory": "1mb", "maxmemory-policy": "noeviction"}) as server:
            assert "maxmemory" in doctor.error("state store", *self.FLAGS, f"--state.redis_url={server.url}")["text"]


class TestModel:
    def test_no_file(self, doctor):
        assert "no file" in doctor.error("model", "--model.source=/nowhere/model.nemo")["text"]

    def test_a_file_that_is_no_model(self, doctor, tmp_path):
        (tmp_path / "text.nemo").write_text("text")
        assert "is no NeMo model" in doctor.error("model", f"--model.source={tmp_path / 'text.nemo'}")["text"]
        with tarfile.open(tmp_path / "other.nemo", "w") as archive:
            archive.add(tmp_path / "text.nemo", "model_weights.ckpt")
        assert "no model_config.yaml" in doctor.error("model", f"--model.source={tmp_path / 'other.nemo'}")["text"]

    def test_a_look_ahead_that_it_has_not(self, doctor):
        found = doctor.error("model", "--model.look_ahead=5")
        assert "model.look_ahead is 5, and it has 13, 6, 1, 0" in found["text"]

    def test_a_name_is_not_fetched(self, doctor):
        _, found = doctor("--model.source=someone/some-model")
        assert found["model"][0]["level"] == "skipped"

    @pytest.mark.slow
    def test_loading_it(self, doctor, tmp_path):
        _, found = doctor("--load-model", "--model.threads=1")
        assert found["model"][0]["level"] == "ok"
        assert "demo@" in found["model"][0]["text"]
        with tarfile.open(MODEL) as archive:
            archive.extractall(tmp_path / "parts", filter="data")
        (tmp_path / "parts" / "model_weights.ckpt").write_bytes(b"broken")
        with tarfile.open(tmp_path / "broken.nemo", "w") as archive:
            archive.add(tmp_path / "parts", ".")
        broken = f"--model.source={tmp_path / 'broken.nemo'}"
        assert doctor(broken)[1]["model"][0]["level"] == "ok"  # it is not looked into
        assert "could not be read as a NeMo model" in doctor.error("model", "--load-model", broken)["text"]


def test_a_device_that_is_not_here(doctor):
    import torch

    device = f"cuda:{torch.cuda.device_count()}"
    assert device in doctor.error("device", f"--model.device={device}")["text"]


def test_it_takes_all_settings_of_the_worker(doctor):
    assert load([*(flag for flag in doctor.flags if flag != "--json"), "--model.source=m"]).kafka.group == doctor.group
