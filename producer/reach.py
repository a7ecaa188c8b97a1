"""Whether a Kafka cluster can be reached and lets us in, asked before any client starts; and why not, in a sentence.

The clients log what went wrong with a connection and raise something that does not say it, or try again for ever.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Any

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

log = logging.getLogger(__name__)


class Unreachable(Exception):
    """No broker can be used; the text says why and what to do."""


async def reach(client: dict[str, Any], timeout_s: float) -> list[tuple[str, int]]:
    """Connect to a bootstrap server, then to each broker that it names; returns those that can be used.

    client: keyword arguments of aiokafka's clients. Raises Unreachable; ValueError for an address that is none. One
    broker of several that cannot be used is logged.
    """
    options = {name: value for name, value in client.items() if name in _CONNECTION}
    servers = client["bootstrap_servers"]
    first = ""
    hosts = addresses(servers)
    for host, port in hosts:
        try:
            return await _brokers(host, port, options, timeout_s / len(hosts))
        except _Refused as refused:
            first = first or str(refused)
    raise Unreachable(first)


def addresses(servers: str) -> list[tuple[str, int]]:
    """Hosts and ports, in any order. Raises ValueError for what is no list of them."""
    try:
        found = [(host, port) for host, port, _ in collect_hosts(servers)]
    except ValueError:
        found = []
    if not found or not all(host and 0 < port < 65536 for host, port in found):
        raise ValueError(f"{servers!r} is no list of host:port, separated by commas")
    return found


_CONNECTION = {
    "security_protocol",
    "ssl_context",
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
}


class _Refused(Exception):
    pass


async def _brokers(host: str, port: int, options: dict[str, Any], timeout_s: float) -> list[tuple[str, int]]:
    brokers = await _ask(host, port, options, timeout_s)
    usable, refused = [broker for broker in brokers if broker == (host, port)], []
    others = [broker for broker in brokers if broker != (host, port)]
    outcomes = await asyncio.gather(
        *(_ask(*broker, options, timeout_s) for broker in others),
        return_exceptions=True,
    )
    for broker, outcome in zip(others, outcomes, strict=True):
        if isinstance(outcome, _Refused):
            refused.append(outcome)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            usable.append(broker)
    if refused and not usable:
        raise _Refused(f"{host}:{port} answers, but not the broker that it names: {refused[0]}")
    for reason in refused:
        log.warning("a broker cannot be used: %s", reason)
    return usable


async def _ask(host: str, port: int, options: dict[str, Any], timeout_s: float) -> list[tuple[str, int]]:
    """The brokers that this one names. Raises _Refused."""
    connection: AIOKafkaConnection | None = None
    try:
        async with asyncio.timeout(timeout_s):
            connection = await create_conn(host, port, request_timeout_ms=int(timeout_s * 1000) + 1000, **options)
            answer = await connection.send(MetadataRequest([]))
    except (KafkaError, OSError, TimeoutError, EOFError) as error:
        raise _Refused(explain(error, host, port, options, timeout_s)) from error
    finally:
        if connection is not None:
            connection.close()
    return [(broker[1], broker[2]) for broker in answer.brokers]


def explain(error: BaseException, host: str, port: int, options: dict[str, Any], timeout_s: float) -> str:
    """A failed connection in a sentence."""
    where, protocol = f"{host}:{port}", options.get("security_protocol", "PLAINTEXT")
    if said := explain_tls(error, where, host):
        return said
    causes = _causes(error)
    if any(isinstance(cause, SaslAuthenticationFailed) for cause in causes):
        user, mechanism = options.get("sasl_plain_username"), options.get("sasl_mechanism")
        return (
            f"{where} refuses the credentials of user {user!r} ({mechanism}): wrong user name or password, or none for "
            "this mechanism"
        )
    if any(isinstance(cause, UnsupportedSaslMechanismError) for cause in causes):
        return f"{where} does not offer the SASL mechanism {options.get('sasl_mechanism')}: choose one that it does"
    if any(isinstance(cause, IllegalSaslStateError) for cause in causes):
        return f"{where} takes no SASL: security_protocol is {protocol}, which this port is not"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return f"{where}: the host name cannot be resolved"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"{where}: nobody listens there"
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return f"{where}: no answer in {timeout_s:g} s"
    if any(isinstance(cause, KafkaError | ConnectionError | EOFError) for cause in causes):
        return f"{where} closes the connection: security_protocol is {protocol}, but {_SUSPICION[protocol]}"
    return f"{where}: {error}"


# What a port is when it closes a connection of this kind without a word.
_SUSPICION = {
    "PLAINTEXT": "this port seems to want TLS or SASL",
    "SSL": "this port seems to be without TLS, or to want SASL",
    "SASL_PLAINTEXT": "this port seems to want TLS",
    "SASL_SSL": "this port seems to be without TLS",
}


def explain_tls(error: BaseException, where: str, host: str) -> str | None:
    """The sentence, if TLS failed; None otherwise. `where`: the server as people call it."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause, where, host)
        if isinstance(cause, ssl.SSLError):
            reason = (cause.reason or str(cause)).lower().replace("_", " ")
            if "certificate" in reason or "handshake failure" in reason:
                return f"{where} asks for a client certificate: none was given, or it does not accept ours ({reason})"
            if "wrong version number" in reason or "record layer" in reason or "eof" in reason:
                return f"{where} does not speak TLS: this port is without"
            return f"{where}: TLS failed: {reason}"
    return None


def _certificate(error: ssl.SSLCertVerificationError, where: str, host: str) -> str:
    match error.verify_code:
        case 10:
            return f"the certificate of {where} has expired (or this machine's clock is wrong): have it renewed"
        case 9:
            return f"the certificate of {where} is not valid yet (or this machine's clock is wrong)"
        case 62 | 64:
            return (
                f"the certificate of {where} is not for {host!r}: use a name that it holds, or have one issued for it "
                f"({error.verify_message})"
            )
        case 18 | 19 | 20 | 21:
            return (
                f"the certificate of {where} is signed by an authority that is not trusted here: give that authority's "
                f"certificate as CA file ({error.verify_message})"
            )
    return f"the certificate of {where} is not accepted: {error.verify_message}"


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it came from."""
    found: list[BaseException] = []
    rest: BaseException | None = error
    while rest is not None and rest not in found:
        found.append(rest)
        rest = rest.__cause__ or rest.__context__
    return found
