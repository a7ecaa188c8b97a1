"""Security settings that cannot work are refused before anything is connected, all at once."""

import pytest

from producer.flags import add_kafka_flags, cluster
from producer.security import Security, SecurityError
from tests.certificates import Authority


def test_nothing_given_is_no_security():
    assert Security().client() == {"security_protocol": "PLAINTEXT"}


def test_what_sasl_lacks_is_named_at_once():
    with pytest.raises(SecurityError) as error:
        Security("SASL_SSL", ssl_ca_file="/nowhere/ca.pem", ssl_cert_file="/nowhere/a.pem").client()
    assert set(error.value.problems) == {"sasl_username", "sasl_password", "ssl_ca_file", "ssl_key_file"}


def test_what_is_given_for_nothing_is_named():
    security = Security("PLAINTEXT", sasl_username="a", sasl_password="hidden", ssl_ca_file="ca.pem")
    assert set(security.problems()) == {"sasl_username", "sasl_password", "ssl_ca_file"}
    assert "hidden" not in str(security.problems()) + repr(security)


def test_two_passwords_are_one_too_many(tmp_path):
    security = Security("SASL_PLAINTEXT", sasl_username="a", sasl_password="b", sasl_password_file=str(tmp_path))
    assert list(security.problems()) == ["sasl_password_file"]


@pytest.mark.parametrize("written", [None, "", "\nsecond line"])
def test_a_password_file_without_a_password(tmp_path, written):
    path = tmp_path / "password"
    if written is not None:
        path.write_text(written)
    problems = Security("SASL_SSL", sasl_username="a", sasl_password_file=str(path)).problems()
    assert list(problems) == ["sasl_password_file"]


def test_files_that_are_no_certificates(tmp_path):
    authority = Authority(tmp_path)
    first, second = authority.issue("first"), authority.issue("second")
    (tmp_path / "text").write_text("not PEM")
    swapped = Security("SSL", ssl_cert_file=str(first), ssl_key_file=str(second.with_suffix(".key")))
    assert "fits the key" in swapped.problems()["ssl_cert_file"]
    assert "no PEM certificates" in Security("SSL", ssl_ca_file=str(tmp_path / "text")).problems()["ssl_ca_file"]


def test_a_key_with_a_passphrase_is_refused_and_never_asked_for(tmp_path):
    authority = Authority(tmp_path)
    path = authority.issue("client")
    authority._run("ec", "-in", "client.key", "-out", "locked.key", "-aes256", "-passout", "pass:secret")
    locked = Security("SSL", ssl_cert_file=str(path), ssl_key_file=str(tmp_path / "locked.key"))
    assert "ssl_cert_file" in locked.problems()


def test_certificates_and_host_names_are_verified():
    import ssl

    context = Security("SSL").client()["ssl_context"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


class TestFlags:
    @pytest.fixture(autouse=True)
    def bare(self, monkeypatch):
        import os

        for name in [name for name in os.environ if name.startswith("KAFKA_")]:
            monkeypatch.delenv(name)

    def parse(self, *argv):
        import argparse

        parser = argparse.ArgumentParser()
        add_kafka_flags(parser)
        return cluster(parser.parse_args(argv))

    def test_flags_win_over_the_environment(self, monkeypatch):
        monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "nosuch")
        monkeypatch.setenv("KAFKA_SASL_USERNAME", "environment")
        monkeypatch.setenv("KAFKA_SASL_PASSWORD", "secret")
        with pytest.raises(SecurityError, match="KAFKA_SECURITY_PROTOCOL: 'NOSUCH' is none of"):
            self.parse()
        found = self.parse("--security-protocol", "sasl_plaintext", "--sasl-username", "flag")
        assert (found.security.security_protocol, found.security.sasl_username) == ("SASL_PLAINTEXT", "flag")
        assert found.security.sasl_password == "secret"
        assert found.bootstrap_servers == "localhost:9092"

    def test_there_is_no_flag_for_the_password(self):
        with pytest.raises(SecurityError, match="--sasl-password-file"):  # which argparse takes it for
            self.parse("--sasl-password", "secret", "--security-protocol", "SASL_SSL", "--sasl-username", "a")

    def test_problems_are_told_by_flag_and_variable(self):
        with pytest.raises(SecurityError, match="--sasl-username or KAFKA_SASL_USERNAME: is needed with SASL_SSL"):
            self.parse("--security-protocol", "SASL_SSL")
