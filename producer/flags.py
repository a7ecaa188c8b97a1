"""The flags and environment variables by which every command but the worker is told about its Kafka cluster."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, fields
from typing import Any

from producer.security import MECHANISMS, PROTOCOLS, Security, SecurityError

EPILOG = """\
security: certificates and host names are always verified. The password comes from a file or from KAFKA_SASL_PASSWORD,
never from the command line, where others can read it.
"""

# Field of Security: what stands for its value in the help, the help.
_FLAGS: dict[str, tuple[str | None, str]] = {
    "security_protocol": (None, "PLAINTEXT (default), SSL, SASL_PLAINTEXT or SASL_SSL"),
    "sasl_mechanism": (None, "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 (default)"),
    "sasl_username": ("NAME", "with SASL"),
    "sasl_password_file": ("FILE", "its first line is the password"),
    "ssl_ca_file": ("FILE", "PEM certificates of the authorities to trust; default: the system's"),
    "ssl_cert_file": ("FILE", "this client's PEM certificate, where brokers ask for one"),
    "ssl_key_file": ("FILE", "its key, without a passphrase"),
}
_CHOICES = {"security_protocol": PROTOCOLS, "sasl_mechanism": MECHANISMS}


def add_kafka_flags(parser: argparse._ActionsContainer) -> None:
    """`--bootstrap-servers` and what `Security` holds; each has its KAFKA_ variable."""
    parser.add_argument(
        "--bootstrap-servers",
        default=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        metavar="HOST:PORT[,...]",
        help="default: KAFKA_BOOTSTRAP_SERVERS, else localhost:9092",
    )
    for name, (metavar, text) in _FLAGS.items():
        variable = _variable(name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=str.upper if name in _CHOICES else str,
            default=os.environ.get(variable) or None,
            choices=_CHOICES.get(name),
            metavar=metavar,
            help=f"{text}; or {variable}",
        )


@dataclass(frozen=True)
class Cluster:
    """Where Kafka is, and what is needed to be let in."""

    bootstrap_servers: str
    security: Security

    def client(self) -> dict[str, Any]:
        """Keyword arguments of aiokafka's clients. Raises SecurityError."""
        return {"bootstrap_servers": self.bootstrap_servers, **self.security.client()}


def cluster(options: argparse.Namespace) -> Cluster:
    """Raises SecurityError that speaks of flags and variables."""
    given = {field.name: getattr(options, field.name, None) for field in fields(Security)}
    given["sasl_password"] = os.environ.get(_variable("sasl_password")) or None
    for name, choices in _CHOICES.items():
        if given[name] is not None and given[name] not in choices:  # from the environment: argparse looks at flags only
            raise SecurityError({_variable(name): f"{given[name]!r} is none of {', '.join(choices)}"})
    security = Security(**{name: value for name, value in given.items() if value is not None})
    if problems := security.problems():
        raise SecurityError({f"--{n.replace('_', '-')} or {_variable(n)}": text for n, text in problems.items()})
    return Cluster(options.bootstrap_servers, security)


def _variable(name: str) -> str:
    return f"KAFKA_{name.upper()}"
