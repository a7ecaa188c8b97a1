"""`trunkline doctor` against each fault of a cluster, on a real broker."""

import asyncio
import time

import pytest

from tests.integration.security.broker import PASSWORD
from tests.integration.support import MODEL, unique
from wire import Topics
from wire.topics import TopicSpec
from worker.doctor.cli import main
from worker.doctor.cluster import Cluster, copies
from worker.ingest import topics as admin
from worker.settings import KafkaSettings
from worker.sources import load

pytestmark = pytest.mark.kafka


def test_nothing_is_wrong_where_nothing_is(doctor):
    code, found = doctor()
    levels = {what: [finding["level"] for finding in findings] for what, findings in found.items()}
    assert code == 0
    assert levels.pop("device") in (["ok"], ["warning"])  # a machine without a GPU is told so
    assert levels.pop("operations") in (["ok"], ["warning"], ["skipped"])  # as processor, device and compiler are
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


def test_a_cluster_without_transactions_is_not_asked_for_one(doctor):
    code, found = doctor("--kafka.delivery=at_least_once")
    assert (code, found["transactions"][0]["level"], found["clock"][0]["level"]) == (0, "skipped", "skipped")


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


def test_it_takes_all_settings_of_the_worker(doctor):
    assert load([*(flag for flag in doctor.flags if flag != "--json"), "--model.source=m"]).kafka.group == doctor.group
