"""Settings that are each right by itself, or of the right kind, and cannot work."""

import pytest

from tests.settings.ask import problems
from worker.sources import SettingsError, load


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
