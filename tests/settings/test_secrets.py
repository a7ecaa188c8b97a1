"""No message and no print of settings shows a secret."""

import pytest

from tests.settings.ask import printed
from worker.sources import SettingsError, load


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


def test_the_password_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    (tmp_path / "password").write_text("from-file\n")
    sasl = ["--model.source=m", "--kafka.security_protocol=SASL_PLAINTEXT", "--kafka.sasl_username=u"]
    settings = load([*sasl, f"--kafka.sasl_password_file={tmp_path / 'password'}"])
    assert settings.kafka.client()["sasl_plain_password"] == "from-file"
    monkeypatch.setenv("TRUNKLINE_KAFKA__SASL_PASSWORD", "from-environment")
    settings = load(sasl)
    assert settings.kafka.client()["sasl_plain_password"] == "from-environment"
    assert "from-environment" not in repr(settings)


@pytest.mark.parametrize("password", ["hush", "hu/hush", "h@hush", "h:hush", "h?hush#hush"])
def test_a_password_in_a_url_is_masked_whatever_is_in_it(password, capsys):
    _, out, _ = printed(["--model.source=m", f"--state.redis_url=redis://user:{password}@host:1/0"], capsys)
    assert "hush" not in out
    assert "redis://user:**********@host:1/0" in out


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_secrets_are_masked(form, monkeypatch, capsys):
    monkeypatch.setenv("TRUNKLINE_STATE__REDIS_PASSWORD", "hush-hush")
    monkeypatch.setenv("TRUNKLINE_KAFKA__SASL_PASSWORD", "hush-hush")
    flags = ["--model.source=m", "--state.redis_url=redis://user:hush-hush@host:1/0", "--kafka.sasl_username=u"]
    code, out, _ = printed([*form, *flags, "--kafka.security_protocol=SASL_PLAINTEXT"], capsys)
    assert code == 0
    assert "hush-hush" not in out
    assert "redis://user:**********@host:1/0" in out
    assert "TRUNKLINE_KAFKA__SASL_PASSWORD" in out
