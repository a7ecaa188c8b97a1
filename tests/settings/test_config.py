"""`trunkline worker config`, and the page of settings."""

import json
from pathlib import Path

from tests.settings.ask import printed
from worker.settings_page import page
from worker.sources import load, names


def test_each_setting_is_shown_with_its_source(yaml, monkeypatch, capsys):
    flags = yaml("model: {source: m.nemo, look_ahead: 1}\n")
    monkeypatch.setenv("TRUNKLINE_MODEL__LOOK_AHEAD", "3")
    code, out, _ = printed(["--json", *flags, "--model.decoder", "ctc"], capsys)
    found = json.loads(out)
    assert code == 0
    assert found["model.source"] == {"value": "m.nemo", "source": f"file {flags[1]}"}
    assert found["model.look_ahead"] == {"value": 3, "source": "TRUNKLINE_MODEL__LOOK_AHEAD"}
    assert found["model.decoder"] == {"value": "ctc", "source": "flag --model.decoder"}
    assert found["batching.slots"] == {"value": 64, "source": "default"}
    assert set(found) == set(names())


def test_what_is_printed_is_yaml_that_gives_the_same_settings(yaml, capsys):
    flags = yaml("model: {source: m.nemo}\nstream: {language: 'no'}\nkafka: {group: '7'}\n")
    _, out, _ = printed([*flags, "--state.key_prefix=a: b #c"], capsys)
    assert load(yaml(out)) == load([*flags, "--state.key_prefix=a: b #c"])
    assert "TRUNKLINE" not in out
    assert out.count("# default") > 40


def test_wrong_settings_are_all_named_and_the_exit_code_is_2(capsys):
    code, out, err = printed(["--batching.slots=0", "--kafka.security_protocol=SASL_SSL"], capsys)
    assert (code, out) == (2, "")
    assert all(name in err for name in ("batching.slots", "model.source", "kafka.sasl_username"))


def test_the_page_of_settings_is_as_the_model_has_it():
    written = Path(__file__).parents[2] / "docs" / "settings.md"
    assert written.read_text() == page(), "run `make docs`"
    for name in names():
        assert f"| `{name}`<br>" in page()
