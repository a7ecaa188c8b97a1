"""`trunkline worker config`, and the page of settings."""

import json
import re
from pathlib import Path

from tests.settings.ask import printed
from worker.settings_page import page
from worker.sources import load, names

ROOT = Path(__file__).parents[2]
# as text in a page's code, or as words of a dashboard
NAMED = re.compile(r"[` ]((?:kafka|model|batching|stream|state|telemetry)\.[a-z]+_[a-z_]+[a-z])\b(?!\.md|\.py)")


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
    written = ROOT / "docs" / "settings.md"
    assert written.read_text() == page(), "run `make docs`"
    for name in names():
        assert f"| `{name}`<br>" in page()


def test_every_setting_that_a_page_or_a_dashboard_names_is_one():
    chart = ROOT / "helm/trunkline/files"
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *chart.rglob("*.json"), *chart.rglob("*.yaml")]
    found = {(name, path.name) for path in pages for name in NAMED.findall(path.read_text())}
    assert len(found) > 100
    assert {(name, path) for name, path in found if name not in names()} == set()
