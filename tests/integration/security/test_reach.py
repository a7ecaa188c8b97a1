"""Each way in, and each way to be refused: one sentence that says why, in a few seconds."""

import asyncio
import time

import pytest

from producer.reach import Unreachable, reach
from producer.security import Security
from tests.certificates import Authority
from tests.integration.security.broker import PASSWORD, Secure

pytestmark = pytest.mark.kafka

FEW_S = 5.0


def knock(servers: str, security: Security) -> list[tuple[str, int]]:
    began = time.monotonic()
    try:
        return asyncio.run(reach({"bootstrap_servers": servers, **security.client()}, FEW_S))
    finally:
        assert time.monotonic() - began < FEW_S


def tls(secure: Secure, **given: str) -> Security:
    return Security("SSL", ssl_ca_file=secure.ca, **given)


def sasl(secure: Secure, mechanism: str = "SCRAM-SHA-512", user: str = "scram", password: str = PASSWORD) -> Security:
    return Security(
        "SASL_SSL", sasl_mechanism=mechanism, sasl_username=user, sasl_password=password, ssl_ca_file=secure.ca
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_tls_by_any_name_of_the_certificate(secure, host):
    assert knock(secure.kafka.address("TLS", host), tls(secure))


def test_a_client_certificate_where_one_is_asked_for(secure):
    files = {"ssl_cert_file": "client.pem", "ssl_key_file": "client.key"}
    folder = secure.authority.folder
    security = tls(secure, **{name: str(folder / file) for name, file in files.items()})
    assert knock(secure.kafka.address("MUTUAL"), security)
    with pytest.raises(Unreachable, match="asks for a client certificate: none was given"):
        knock(secure.kafka.address("MUTUAL"), tls(secure))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_sasl_with_the_right_and_the_wrong_password(secure, mechanism):
    user = "admin" if mechanism == "PLAIN" else "scram"
    assert knock(secure.kafka.address("SECURE"), sasl(secure, mechanism, user))
    with pytest.raises(Unreachable, match=f"refuses the credentials of user '{user}'") as refused:
        knock(secure.kafka.address("SECURE"), sasl(secure, mechanism, user, "wrong-password"))
    assert "wrong-password" not in str(refused.value)


def test_the_password_from_a_file(secure, tmp_path):
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    security = Security("SASL_PLAINTEXT", sasl_username="scram", sasl_password_file=str(tmp_path / "password"))
    assert knock(secure.kafka.address("CLEAR"), security)


def test_a_user_that_does_not_exist(secure):
    with pytest.raises(Unreachable, match="refuses the credentials of user 'nobody'"):
        knock(secure.kafka.address("SECURE"), sasl(secure, user="nobody"))


def test_a_mechanism_that_the_broker_does_not_offer(secure):
    security = Security("SASL_PLAINTEXT", sasl_username="scram", sasl_password=PASSWORD)
    with pytest.raises(Unreachable, match="does not offer the SASL mechanism SCRAM-SHA-512"):
        knock(secure.kafka.address("ONLYPLAIN"), security)


def test_an_expired_certificate(secure):
    with pytest.raises(Unreachable, match=r"the certificate of 127\.0\.0\.1:\d+ has expired"):
        knock(secure.kafka.address("EXPIRED"), tls(secure))


def test_a_certificate_for_another_host_name(secure):
    with pytest.raises(Unreachable, match=r"the certificate of 127\.0\.0\.1:\d+ is not for '127\.0\.0\.1'"):
        knock(secure.kafka.address("OTHERNAME"), tls(secure))


def test_a_broker_whose_own_name_is_not_in_the_certificate_of_the_first_contact(secure):
    """The first contact is right; the broker names itself by an address that the certificate does not hold."""
    with pytest.raises(Unreachable, match=r"localhost:\d+ answers, but not the broker that it names: .* is not for"):
        knock(secure.kafka.address("BOOTSTRAP", "localhost"), tls(secure))


def test_an_authority_that_is_not_trusted(secure, tmp_path):
    other = Authority(tmp_path)
    for security in (Security("SSL"), Security("SSL", ssl_ca_file=str(other.ca))):
        with pytest.raises(Unreachable, match="signed by an authority that is not trusted here"):
            knock(secure.kafka.address("TLS"), security)


def test_plain_against_tls_and_tls_against_plain(secure):
    with pytest.raises(Unreachable, match="security_protocol is PLAINTEXT, but this port seems to want TLS"):
        knock(secure.kafka.address("TLS"), Security())
    with pytest.raises(Unreachable, match="security_protocol is SSL, but this port seems to be without TLS"):
        knock(secure.kafka.bootstrap_servers, tls(secure))


def test_without_sasl_where_it_is_asked_for_and_with_it_where_it_is_not(secure):
    with pytest.raises(Unreachable, match="security_protocol is PLAINTEXT, but this port seems to want TLS or SASL"):
        knock(secure.kafka.address("CLEAR"), Security())
    security = Security("SASL_PLAINTEXT", sasl_username="scram", sasl_password=PASSWORD)
    with pytest.raises(Unreachable, match="takes no SASL: security_protocol is SASL_PLAINTEXT"):
        knock(secure.kafka.bootstrap_servers, security)


def test_one_server_of_several_is_enough(secure):
    assert knock(f"127.0.0.1:1,{secure.kafka.address('TLS')}", tls(secure))


@pytest.mark.parametrize("servers", ["host:abc", "", "a:1,b:x"])
def test_no_addresses(servers):
    with pytest.raises(ValueError, match=f"{servers!r} is no list of host:port, separated by commas"):
        knock(servers, Security())


@pytest.mark.parametrize(("address", "said"), [("127.0.0.1:1", "nobody listens"), ("no.such.host:1", "resolved")])
def test_nobody_there(address, said):
    with pytest.raises(Unreachable, match=said):
        knock(address, Security())
