"""How a client of Kafka proves who it is and whom it talks to: SASL, TLS. The same for every part of Trunkline."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
PROTOCOLS: tuple[str, ...] = get_args(SecurityProtocol)
MECHANISMS: tuple[str, ...] = get_args(SaslMechanism)


class SecurityError(ValueError):
    """Security settings that cannot work; `problems` maps a field's name to what is wrong with it."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in problems.items()))
        self.problems = problems


@dataclass(frozen=True)
class Security:
    """Kafka's own names and values. Certificates and host names are always verified.

    sasl_password, or sasl_password_file, whose first line it is. ssl_ca_file: authorities to trust, the system's if not
    given. ssl_cert_file, ssl_key_file: this client's certificate, where brokers ask for one; the key has no passphrase.
    """

    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    sasl_password_file: str | None = None
    ssl_ca_file: str | None = None
    ssl_cert_file: str | None = None
    ssl_key_file: str | None = None

    @property
    def has_tls(self) -> bool:
        return self.security_protocol.endswith("SSL")

    @property
    def has_sasl(self) -> bool:
        return self.security_protocol.startswith("SASL")

    def client(self) -> dict[str, Any]:
        """Keyword arguments of aiokafka's clients. Raises SecurityError with all that is wrong."""
        if problems := self.problems():
            raise SecurityError(problems)
        options: dict[str, Any] = {"security_protocol": self.security_protocol}
        if self.has_sasl:
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": self.sasl_password or read_secret(self.sasl_password_file or ""),
            }
        if self.has_tls:
            options["ssl_context"] = ssl.create_default_context(cafile=self.ssl_ca_file)
            if self.ssl_cert_file and self.ssl_key_file:
                options["ssl_context"].load_cert_chain(self.ssl_cert_file, self.ssl_key_file, _no_passphrase)
        return options

    def problems(self) -> dict[str, str]:
        """What contradicts itself or cannot be read, by field."""
        found: dict[str, str] = {}
        if self.has_sasl:
            if self.sasl_username is None:
                found["sasl_username"] = f"is needed with {self.security_protocol}"
            if self.sasl_password is None and self.sasl_password_file is None:
                found["sasl_password"] = f"or sasl_password_file is needed with {self.security_protocol}"
        else:
            for name in ("sasl_username", "sasl_password", "sasl_password_file"):
                if getattr(self, name) is not None:
                    found[name] = f"is given, but security_protocol is {self.security_protocol}, without SASL"
        if self.sasl_password is not None and self.sasl_password_file is not None:
            found["sasl_password_file"] = "is given beside sasl_password: which of them?"
        elif "sasl_password_file" not in found and (wrong := secret_problem(self.sasl_password_file)):
            found["sasl_password_file"] = wrong
        if self.has_tls:
            return found | tls_problems(self.ssl_ca_file, self.ssl_cert_file, self.ssl_key_file, "ssl_")
        for name in ("ssl_ca_file", "ssl_cert_file", "ssl_key_file"):
            if getattr(self, name) is not None:
                found[name] = f"is given, but security_protocol is {self.security_protocol}, without TLS"
        return found


def read_secret(path: str) -> str:
    """The first line of a file. Raises OSError, UnicodeDecodeError."""
    return Path(path).read_text(encoding="utf-8").split("\n", 1)[0].rstrip("\r")


def secret_problem(path: str | None) -> str | None:
    """Why no secret can be read from the file; None if it can, or if there is none to read."""
    if path is None:
        return None
    try:
        return None if read_secret(path) else f"{path!r} begins with an empty line"
    except (OSError, UnicodeDecodeError) as error:
        return f"{path!r} cannot be read: {_reason(error)}"


def tls_problems(ca: str | None, cert: str | None, key: str | None, prefix: str) -> dict[str, str]:
    """What is wrong with these files, by field name: `prefix` and ca_file, cert_file or key_file."""
    found: dict[str, str] = {}
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except OSError as error:  # SSLError is one, too
            found[f"{prefix}ca_file"] = _unusable(ca, error, "PEM certificates")
    if (cert is None) != (key is None):
        lacking = "cert" if cert is None else "key"
        found[f"{prefix}{lacking}_file"] = "a client certificate needs both its file and its key's"
    elif cert is not None and key is not None:
        missing = [(name, path) for name, path in (("cert", cert), ("key", key)) if not Path(path).is_file()]
        for name, path in missing:
            found[f"{prefix}{name}_file"] = f"{path!r} cannot be read: no such file"
        if not missing:
            try:
                context.load_cert_chain(cert, key, _no_passphrase)
            except (OSError, ValueError) as error:
                found[f"{prefix}cert_file"] = _unusable(cert, error, "a PEM certificate that fits the key")
    return found


def _no_passphrase() -> str:
    # without this the program would stand still and ask for one on the terminal
    raise ValueError("the key has a passphrase; give one without")


def _unusable(path: str, error: Exception, wanted: str) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{path!r} holds no {wanted} ({error.reason or 'not PEM'})"
    return f"{path!r} cannot be read: {_reason(error)}"


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
