"""Where settings come from, who wins, and that every mistake is named at once."""

import pytest

from tests.settings.ask import problems
from worker.settings import Settings
from worker.sources import SettingsError, load

SECTIONS = ("kafka", "model", "batching", "stream", "telemetry")


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
