"""Settings: where they come from, who wins, and that every mistake is named at once."""

import json
import os
from pathlib import Path

import pytest

from worker import config_cli
from worker.settings import PREFIX, Settings
from worker.settings_page import page
from worker.sources import SettingsError, load, names

SECTIONS = ("kafka", "model", "batching", "stream", "telemetry")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def yaml(tmp_path):
    """Write a YAML file; returns the flags that name it."""

    def write(text):
        path = tmp_path / "worker.yaml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


def problems(argv):
    with pytest.raises(SettingsError) as error:
        load(argv)
    for problem in error.value.problems:
        assert problem in str(error.value)
    return sorted(problem.split(":")[0] for problem in error.value.problems)


def test_only_the_model_is_required_and_the_defaults_are_those_of_the_design():
    settings = load(["--model.source", "m.nemo"])
    assert (settings.model.source, settings.model.look_ahead, settings.model.decoder) == ("m.nemo", 6, "auto")
    stream = settings.stream
    assert (stream.endpoint_ms, stream.max_utterance_ms, stream.idle_ms) == (800, 30_000, 60_000)
    assert settings.kafka.topics.audio == "audio.chunks"
    assert problems([]) == ["model.source"]


def test_a_section_without_its_required_setting_names_it(monkeypatch):
    assert problems(["--model.look_ahead", "1"]) == ["model.source"]


def test_flags_win_over_environment_and_environment_over_yaml(yaml, monkeypatch):
    flags = yaml("model: {source: yaml, look_ahead: 1, decoder: ctc}\nstream: {endpoint_ms: 100, idle_ms: 200}\n")
    monkeypatch.setenv("TRUNKLINE_MODEL__LOOK_AHEAD", "3")
    monkeypatch.setenv("TRUNKLINE_MODEL__SOURCE", "environment")
    monkeypatch.setenv("TRUNKLINE_STREAM__ENDPOINT_MS", "300")
    settings = load([*flags, "--model.source=flag", "--telemetry.port", "0"])
    assert (settings.model.source, settings.model.look_ahead, settings.model.decoder) == ("flag", 3, "ctc")
    assert (settings.stream.endpoint_ms, settings.stream.idle_ms, settings.stream.reorder_ms) == (300, 200, 2000)
    assert settings.telemetry.port == 0


def test_the_environment_may_name_the_yaml_file(yaml, monkeypatch):
    monkeypatch.setenv("TRUNKLINE_CONFIG", yaml("model: {source: a}\ndrain_timeout_s: 5\n")[1])
    assert (load().model.source, load().drain_timeout_s) == ("a", 5)
    assert load(yaml("model: {source: b}\n")).model.source == "b"


def test_all_wrong_values_are_named_at_once_whatever_their_source(yaml, monkeypatch):
    monkeypatch.setenv("TRUNKLINE_STREAM__SAMPLE_RATE", "8001")
    monkeypatch.setenv("TRUNKLINE_BATCHING__NOPE", "1")
    monkeypatch.setenv("TRUNKLINE_NOSUCH__THING", "1")
    flags = yaml("batching: {slots: 0}\nkafka: {commit_interval_ms: soon}\nnosection: {a: 1}\nmodel: {sorce: x}\n")
    assert problems([*flags, "--telemetry.port", "70000", "--model.decoder", "best"]) == [
        "TRUNKLINE_NOSUCH__THING",
        "batching.nope",
        "batching.slots",
        "kafka.commit_interval_ms",
        "model.decoder",
        "model.sorce",
        "model.source",
        "nosection",
        "stream.sample_rate",
        "telemetry.port",
    ]


def test_a_problem_says_what_was_found_and_how_the_setting_is_called_elsewhere(yaml):
    with pytest.raises(SettingsError) as error:
        load(yaml("model: {source: a}\nbatching: {slots: none}\n"))
    (problem,) = error.value.problems
    assert problem.startswith("batching.slots: ")
    assert "'none'" in problem
    assert "TRUNKLINE_BATCHING__SLOTS" in problem


@pytest.mark.parametrize("flag", ["--model.sorce=x", "--nosection.a=1", "--slots=1"])
def test_an_unknown_flag_is_named_with_the_other_problems(flag):
    assert problems([flag, "--model.look_ahead", "-1"]) == sorted(
        [flag.split("=")[0], "model.look_ahead", "model.source"]
    )


def test_what_belongs_to_no_flag_is_a_problem():
    with pytest.raises(SettingsError, match="an argument that belongs to no flag"):
        load(["--model.source=m", "--kafka.group", "a", "hush-hush"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("TRUNKLINE_MODEL__SORCE", "x"), ("TRUNKLINE_STREAMS__IDLE_MS", "1"), ("TRUNKLINE_SLOTS", "1")],
)
def test_an_unknown_name_in_the_environment_is_named(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load(["--model.source=m"])
    assert name in str(error.value)


def test_a_section_in_the_environment_that_is_not_a_map_is_named(monkeypatch):
    monkeypatch.setenv("TRUNKLINE_MODEL", "m.nemo")
    with pytest.raises(SettingsError) as error:
        load([])
    assert "model" in str(error.value)


@pytest.mark.parametrize("text", ["model: [unclosed", "- a\n- b\n", "just words", "\tmodel: {}"])
def test_a_file_that_is_no_yaml_map_is_named(text, yaml):
    flags = yaml(text)
    assert problems([*flags, "--model.source=m"]) == ["--config"]


def test_an_empty_file_says_nothing(yaml):
    assert load([*yaml(""), "--model.source=m"]).model.source == "m"


def test_a_file_that_does_not_exist_is_named_with_the_other_problems(tmp_path, monkeypatch):
    missing = str(tmp_path / "missing.yaml")
    monkeypatch.setenv("TRUNKLINE_NOSUCH", "1")
    with pytest.raises(SettingsError) as error:
        load(["--config", missing])
    assert missing in str(error.value)
    assert "TRUNKLINE_NOSUCH" in str(error.value)


def test_help_exits_0_and_shows_every_setting(capsys):
    with pytest.raises(SystemExit) as error:
        load(["--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for section in SECTIONS:
        for name in Settings.model_fields[section].annotation.model_fields:
            assert f"--{section}.{name}" in text
    assert "--drain_timeout_s" in text
    assert "--config" in text


def test_settings_cannot_be_changed_afterwards():
    settings = load(["--model.source", "m"])
    with pytest.raises(ValueError, match="frozen"):
        settings.model.look_ahead = 1


def test_settings_that_contradict_each_other_are_named_together_with_the_wrong_ones(yaml, tmp_path):
    flags = yaml(
        "model: {source: m}\nbatching: {slots: 0}\n"
        "kafka: {security_protocol: SASL_SSL, ssl_ca_file: /nowhere/ca.pem, partial_topic: transcripts.final}\n"
        "state: {store: redis, redis_ca_file: /nowhere/ca.pem, redis_username: worker}\n"
    )
    assert problems(flags) == [
        "batching.slots",
        "kafka.final_topic",
        "kafka.partial_topic",
        "kafka.sasl_password",
        "kafka.sasl_username",
        "kafka.ssl_ca_file",
        "state.redis_ca_file",
        "state.redis_username",
    ]


def test_contradictions_are_found_beside_a_wrong_value_of_the_same_section(yaml):
    flags = yaml("model: {sorce: m}\nkafka: {security_protocol: SASL_SSL, session_timeout_ms: soon}\n")
    assert problems(flags) == [
        "kafka.sasl_password",
        "kafka.sasl_username",
        "kafka.session_timeout_ms",
        "model.sorce",
        "model.source",
    ]


@pytest.mark.parametrize("path", ["/nowhere/ca.pem", __file__])
def test_files_of_tls_that_cannot_be_used_are_named(path):
    flags = ["--model.source=m", "--state.store=redis", "--state.redis_url=rediss://h", f"--state.redis_ca_file={path}"]
    assert problems(flags) == ["state.redis_ca_file"]
    assert problems(["--model.source=m", "--kafka.security_protocol=SSL", f"--kafka.ssl_ca_file={path}"]) == [
        "kafka.ssl_ca_file"
    ]


def test_certificates_for_a_redis_without_tls_are_refused():
    flags = ["--model.source=m", "--state.store=redis", "--state.redis_cert_file=a", "--state.redis_key_file=b"]
    assert problems(flags) == ["state.redis_cert_file", "state.redis_key_file"]
    assert problems(["--model.source=m", "--state.store=redis", "--state.redis_url=http://h"]) == ["state.redis_url"]


@pytest.mark.parametrize("servers", ["host:abc", "", "a:1,b:x", "a:1,,b:1", "a:0", "a:65536"])
def test_bootstrap_servers_that_are_no_addresses(servers):
    flags = ["--batching.slots=0", "--model.source=m", f"--kafka.bootstrap_servers={servers}"]
    assert problems(flags) == ["batching.slots", "kafka.bootstrap_servers"]


@pytest.mark.parametrize("servers", ["a", "a:1, b:2", "[::1]:9092", "10.0.0.1:9092"])
def test_bootstrap_servers(servers):
    assert load(["--model.source=m", f"--kafka.bootstrap_servers={servers}"]).kafka.bootstrap_servers == servers


def test_a_store_that_is_not_used_need_not_be_right():
    load(["--model.source=m", "--state.redis_ca_file=/nowhere"])


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("kafka: {sasl_pasword: hush-hush}", ["kafka.sasl_pasword"]),
        ("kafka: {sasl_password: [hush-hush]}", ["kafka.sasl_password"]),
        ("state: [hush-hush]", ["state"]),
        ("state: {redis_password: {a: hush-hush}}", ["state.redis_password"]),
        ("kafka: {sasl_password: hush-hush}", ["kafka.sasl_password"]),
        ("nosuch: {password: hush-hush}", ["nosuch"]),
        ("kafka:\n  sasl_password: hush-hush: more", ["--config"]),
        ('kafka: {sasl_password: "hush-hush}', ["--config"]),
        ("kafka: {sasl_password: *hush-hush}", ["--config"]),
        ("kafka: {sasl_password: !hush-hush x}", ["--config"]),
    ],
)
def test_no_problem_shows_a_secret(yaml, text, names):
    with pytest.raises(SettingsError) as error:
        load([*yaml(f"{text}\n"), "--model.source=m"])
    assert [problem.split(":")[0] for problem in error.value.problems] == names
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("flag", [["--kafka.sasl_pasword=hush-hush"], ["--kafka.sasl_pasword", "hush-hush"]])
def test_no_mistyped_flag_shows_a_secret(flag):
    with pytest.raises(SettingsError) as error:
        load(["--model.source=m", *flag])
    assert "--kafka.sasl_pasword: " in str(error.value)
    assert "hush" not in str(error.value)


def test_a_wrong_place_in_the_file_is_told(yaml):
    with pytest.raises(SettingsError, match=r"line 2, column 27: no YAML"):
        load(yaml("kafka:\n  sasl_password: hush-hush: more\n"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:hu/sh@host:1/0",
        "redis://host:port/0",
        "redis://host:1/0?password=hush",
        "rediss://host:1/0?ssl_cert_reqs=none",  # which would verify no certificate
        "rediss://host:1/0#x",
        "rediss:///0",
        "redis://host:1/first",
    ],
)
def test_a_redis_url_is_a_host_a_port_a_database_and_no_more(url):
    with pytest.raises(SettingsError) as error:
        load(["--model.source=m", "--state.store=redis", f"--state.redis_url={url}"])
    (problem,) = error.value.problems
    assert problem.startswith("state.redis_url: ")
    assert url.partition("://")[2] not in problem
    assert "hu" not in problem


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h:1", "redis://u:a%2Fb%40c@[::1]:1/3", "rediss://h:1/0", "unix:///s"]
)
def test_redis_urls(url):
    assert load(["--model.source=m", "--state.store=redis", f"--state.redis_url={url}"]).state.redis_url == url


def test_the_password_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "password").write_text("from-file\n")
    sasl = ["--model.source=m", "--kafka.security_protocol=SASL_PLAINTEXT", "--kafka.sasl_username=u"]
    settings = load([*sasl, f"--kafka.sasl_password_file={tmp_path / 'password'}"])
    assert settings.kafka.client()["sasl_plain_password"] == "from-file"
    monkeypatch.setenv("TRUNKLINE_KAFKA__SASL_PASSWORD", "from-environment")
    settings = load(sasl)
    assert settings.kafka.client()["sasl_plain_password"] == "from-environment"
    assert "from-environment" not in repr(settings)


class TestConfig:
    """`trunkline worker config`."""

    def run(self, argv, capsys):
        code = config_cli.main(argv)
        out = capsys.readouterr()
        return code, out.out, out.err

    def test_each_setting_is_shown_with_its_source(self, yaml, monkeypatch, capsys):
        flags = yaml("model: {source: m.nemo, look_ahead: 1}\n")
        monkeypatch.setenv("TRUNKLINE_MODEL__LOOK_AHEAD", "3")
        code, out, _ = self.run(["--json", *flags, "--model.decoder", "ctc"], capsys)
        found = json.loads(out)
        assert code == 0
        assert found["model.source"] == {"value": "m.nemo", "source": f"file {flags[1]}"}
        assert found["model.look_ahead"] == {"value": 3, "source": "TRUNKLINE_MODEL__LOOK_AHEAD"}
        assert found["model.decoder"] == {"value": "ctc", "source": "flag --model.decoder"}
        assert found["batching.slots"] == {"value": 64, "source": "default"}
        assert set(found) == set(names())

    def test_what_is_printed_is_yaml_that_gives_the_same_settings(self, yaml, capsys):
        flags = yaml("model: {source: m.nemo}\nstream: {language: 'no'}\nkafka: {group: '7'}\n")
        _, out, _ = self.run([*flags, "--state.key_prefix=a: b #c"], capsys)
        assert load(yaml(out)) == load([*flags, "--state.key_prefix=a: b #c"])
        assert "TRUNKLINE" not in out
        assert out.count("# default") > 40

    @pytest.mark.parametrize("password", ["hush", "hu/hush", "h@hush", "h:hush", "h?hush#hush"])
    def test_a_password_in_a_url_is_masked_whatever_is_in_it(self, password, capsys):
        _, out, _ = self.run(["--model.source=m", f"--state.redis_url=redis://user:{password}@host:1/0"], capsys)
        assert "hush" not in out
        assert "redis://user:**********@host:1/0" in out

    @pytest.mark.parametrize("form", [[], ["--json"]])
    def test_secrets_are_masked(self, form, monkeypatch, capsys):
        monkeypatch.setenv("TRUNKLINE_STATE__REDIS_PASSWORD", "hush-hush")
        monkeypatch.setenv("TRUNKLINE_KAFKA__SASL_PASSWORD", "hush-hush")
        flags = ["--model.source=m", "--state.redis_url=redis://user:hush-hush@host:1/0", "--kafka.sasl_username=u"]
        code, out, _ = self.run([*form, *flags, "--kafka.security_protocol=SASL_PLAINTEXT"], capsys)
        assert code == 0
        assert "hush-hush" not in out
        assert "redis://user:**********@host:1/0" in out
        assert "TRUNKLINE_KAFKA__SASL_PASSWORD" in out

    def test_wrong_settings_are_all_named_and_the_exit_code_is_2(self, capsys):
        code, out, err = self.run(["--batching.slots=0", "--kafka.security_protocol=SASL_SSL"], capsys)
        assert (code, out) == (2, "")
        assert all(name in err for name in ("batching.slots", "model.source", "kafka.sasl_username"))


def test_the_page_of_settings_is_as_the_model_has_it():
    written = Path(__file__).parents[1] / "docs" / "settings.md"
    assert written.read_text() == page(), "run `make docs`"
    for name in names():
        assert f"| `{name}`<br>" in page()
