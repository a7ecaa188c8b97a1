"""What the network policies open, and to whom."""

import pytest

from tests.helm.chart import VALUES, objects, only, rendered

ON = "everything-on"


def _ports(policy):
    return [[entry["port"] for entry in rule["ports"]] for rule in policy["spec"]["egress"]]


def test_network_policies_deny_all_but_what_is_named():
    policy = only(rendered(ON), "NetworkPolicy", "speech-asr")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    # names, Kafka, Redis, models, traces
    assert _ports(policy) == [[53, 53], [9093, 9094], [6380], [443], [4318]]
    assert all(rule["to"] for rule in policy["spec"]["egress"])
    metrics, debug = policy["spec"]["ingress"]
    assert metrics["ports"] == [{"port": 9090}]
    assert debug["from"]
    assert [protocol["protocol"] for protocol in policy["spec"]["egress"][0]["ports"]] == ["UDP", "TCP"]
    on = VALUES[ON]["networkPolicy"]
    assert metrics["from"] == on["metricsFrom"]
    assert [rule["to"] for rule in policy["spec"]["egress"][:4]] == [
        on[key] for key in ("dnsTo", "kafkaTo", "redisTo", "modelTo")
    ]


@pytest.mark.parametrize("ending", ["-client", "-topics"])
def test_client_pods_reach_kafka_only_and_nobody_them(ending):
    client = only(rendered(ON), "NetworkPolicy", ending)["spec"]
    assert client["policyTypes"] == ["Ingress", "Egress"]
    assert client["ingress"] == []
    assert _ports({"spec": client}) == [[53, 53], [9093, 9094]]
    pods = [each["metadata"]["labels"] for each in rendered(ON) if each["kind"] == "Pod"]
    pods += [each["spec"]["template"]["metadata"]["labels"] for each in rendered(ON) if each["kind"] == "Job"]
    assert len(pods) == 2
    assert all(client["podSelector"]["matchLabels"].items() <= labels.items() for labels in pods)
    workers = only(rendered(ON), "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    assert not client["podSelector"]["matchLabels"].items() <= workers.items()


def test_a_port_given_twice_is_opened_once():
    found = objects({"networkPolicy": {"enabled": True, "kafkaPorts": [9092, 9093]}})
    assert _ports(only(found, "NetworkPolicy", "-client")) == [[53, 53], [9092, 9093]]


def test_a_container_that_fetches_the_model_may():
    found = objects(VALUES["init-container"] | {"networkPolicy": {"enabled": True}})
    assert [443] in _ports(only(found, "NetworkPolicy", "trunkline"))


def test_without_redis_and_downloads_their_ports_stay_shut():
    found = objects(
        {"networkPolicy": {"enabled": True, "metricsFrom": []}, "model": {"from": "path", "path": "/m.nemo"}}
    )
    policy = only(found, "NetworkPolicy", "trunkline")
    assert _ports(policy) == [[53, 53], [9092]]
    # a selector would leave out what answers names on the node's own network, such as NodeLocal DNSCache
    assert "to" not in policy["spec"]["egress"][0]
    assert policy["spec"]["ingress"] == []


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("redis://redis", 6379),
        ("redis://r:7000/1", 7000),
        ("rediss://r:6380", 6380),
        ("redis://[fd00::1]:6390/0", 6390),
        ("redis://[fd00::1]", 6379),
    ],
)
def test_the_port_of_redis_is_that_of_its_url(url, port):
    found = objects({"networkPolicy": {"enabled": True}, "settings": {"state": {"store": "redis", "redis_url": url}}})
    assert [port] in _ports(only(found, "NetworkPolicy", "trunkline"))
