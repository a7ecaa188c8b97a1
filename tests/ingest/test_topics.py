import asyncio
import os
import subprocess
import sys
import uuid
from dataclasses import astuple, replace

import pytest

from tests.conftest import PARTITIONS
from wire.topics import Topics, TopicSpec, specs
from worker.ingest import topics as admin
from worker.ingest.topics_cli import main

pytestmark = pytest.mark.kafka


@pytest.fixture
def absent() -> Topics:
    """Names that no test has used."""
    tag = uuid.uuid4().hex[:8]
    return Topics(*(f"{name}.{tag}" for name in astuple(Topics())))


def _names(topics: Topics) -> list[str]:
    return [part for name in Topics.__dataclass_fields__ for part in (f"--{name}", getattr(topics, name))]


def _create(kafka: str, wanted: list[TopicSpec]) -> admin.Report:
    return asyncio.run(admin.create(wanted, bootstrap_servers=kafka))


def _check(kafka: str, topics: Topics) -> list[str]:
    return asyncio.run(admin.check(topics, bootstrap_servers=kafka))


def test_created_topics_have_the_counts_and_settings_asked_for(kafka, topics):
    found = asyncio.run(admin.describe(astuple(topics), bootstrap_servers=kafka))
    for spec in specs(topics, PARTITIONS):
        state = found[spec.name]
        assert (state.partitions, state.replication) == (spec.partitions, spec.replication)
        assert {name: state.config[name] for name in spec.config} == spec.config
    streams = found[topics.streams].config
    assert streams["cleanup.policy"] == "compact"
    assert streams["segment.bytes"] == "16777216"
    assert streams["max.compaction.lag.ms"] == "60000"


def test_check_finds_nothing_wrong_with_created_topics(kafka, topics):
    assert _check(kafka, topics) == []


def test_creating_again_changes_nothing_and_names_what_differs(kafka, topics):
    wanted = specs(topics, PARTITIONS + 1)
    report = _create(kafka, wanted)
    assert report.created == []
    assert sorted(report.existing) == sorted(astuple(topics))
    assert report.differences == [
        f"Topic {name} exists with partitions {PARTITIONS}, not {PARTITIONS + 1}."
        for name in (spec.name for spec in wanted)
    ]
    assert _create(kafka, specs(topics, PARTITIONS)).differences == []


def test_two_creators_at_the_same_moment_both_succeed(kafka, absent):
    async def both():
        wanted = specs(absent, 2)
        return await asyncio.gather(*(admin.create(wanted, bootstrap_servers=kafka) for _ in range(2)))

    one, other = asyncio.run(both())
    assert sorted(one.created + other.created) == sorted(astuple(absent))
    assert _check(kafka, absent) == []
    asyncio.run(admin.delete(astuple(absent), bootstrap_servers=kafka))


def test_check_names_every_missing_topic_and_makes_none(kafka, absent):
    problems = _check(kafka, absent)
    assert len(problems) == 5
    for name, problem in zip(astuple(absent), problems, strict=True):
        assert name in problem
        assert "trunkline topics create" in problem
    assert asyncio.run(admin.describe(astuple(absent), bootstrap_servers=kafka)) == {}


def test_check_names_a_topic_with_another_partition_count(kafka, topics, absent):
    _create(kafka, [TopicSpec(absent.final, PARTITIONS + 1, {"cleanup.policy": "delete"})])
    (problem,) = _check(kafka, replace(topics, final=absent.final))
    assert f"{absent.final} has {PARTITIONS + 1} partitions" in problem
    assert f"{topics.audio} has {PARTITIONS}" in problem


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("cleanup.policy", "delete"),
        ("segment.bytes", "1073741824"),
        ("max.compaction.lag.ms", "9223372036854775807"),
    ],
)
def test_check_names_each_setting_of_the_stream_table_that_differs(kafka, topics, absent, setting, value):
    good = next(spec for spec in specs(absent, PARTITIONS) if spec.name == absent.streams)
    _create(kafka, [replace(good, config=good.config | {setting: value})])
    (problem,) = _check(kafka, replace(topics, streams=absent.streams))
    assert f"{setting}={value}" in problem
    assert f"--add-config {setting}={good.config[setting]}" in problem


def test_the_command_creates_checks_and_lists(kafka, absent, capsys):
    options = ["--bootstrap-servers", kafka, *_names(absent)]
    assert main(["check", *options]) == 1
    assert main(["list", *options]) == 1
    capsys.readouterr()
    assert main(["create", *options, "--partitions", "3"]) == 0
    assert f"{absent.audio}: created, 3 partitions" in capsys.readouterr().out
    assert main(["create", *options, "--partitions", "3"]) == 0
    assert main(["check", *options]) == 0
    capsys.readouterr()
    assert main(["list", *options]) == 0
    listed = capsys.readouterr().out
    assert f"{absent.streams}  partitions=3 replicas=1 cleanup.policy=compact" in listed
    assert len(listed.splitlines()) == 5


def test_the_command_says_which_cluster_it_cannot_reach(capsys):
    assert main(["check", "--bootstrap-servers", "127.0.0.1:1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["mend"], ["create", "--partitions", "0"]])
def test_wrong_usage_is_exit_code_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_the_console_script_lists_its_commands_without_importing_torch():
    code = "import sys, trunkline.cli as c; c.main(['--help']); c.main(['topics', 'check']); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
    )
    for command in ("produce", "topics", "worker"):
        assert f"\n  {command}" in done.stdout
    assert done.stdout.splitlines()[-1] == "False", done.stderr
