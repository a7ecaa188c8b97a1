"""One broker with a listener of every kind, users, an authorizer, and certificates good and bad."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from deploy.kafka import LocalKafka
from producer.reach import Unreachable, reach
from producer.security import Security
from tests.certificates import Authority
from wire import Topics

PASSWORD = "correct-horse-battery"
LISTENERS = {
    "TLS": "SSL",
    "EXPIRED": "SSL",
    "OTHERNAME": "SSL",
    "BOOTSTRAP": "SSL",
    "MUTUAL": "SSL",
    "SECURE": "SASL_SSL",
    "CLEAR": "SASL_PLAINTEXT",
    "ONLYPLAIN": "SASL_PLAINTEXT",
}
CERTIFICATES = {
    "TLS": "broker",
    "EXPIRED": "expired",
    "OTHERNAME": "othername",
    "BOOTSTRAP": "bootstrap",
    "MUTUAL": "broker",
    "SECURE": "broker",
}
MECHANISMS = {"SECURE": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512", "CLEAR": "PLAIN,SCRAM-SHA-512", "ONLYPLAIN": "PLAIN"}
_PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


@dataclass
class Secure:
    """The broker; `admin` is its super-user by way of the listener without security."""

    kafka: LocalKafka
    authority: Authority
    admin: AdminClient

    @property
    def ca(self) -> str:
        return str(self.authority.ca)

    def user(self, name: str) -> None:
        """A SCRAM user with the password that all have."""
        changes = [
            UserScramCredentialUpsertion(name, ScramCredentialInfo(kind, 4096), PASSWORD.encode())
            for kind in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
        ]
        for change in changes:
            for done in self.admin.alter_user_scram_credentials([change]).values():
                done.result(20)
        security = Security("SASL_PLAINTEXT", sasl_username=name, sasl_password=PASSWORD)
        client = {"bootstrap_servers": self.kafka.address("CLEAR"), **security.client()}
        _soon(lambda: asyncio.run(reach(client, 5.0)))

    def allow(self, user: str, kind: str, name: str, *operations: str, prefix: bool = False) -> None:
        pattern = ResourcePatternType.PREFIXED if prefix else ResourcePatternType.LITERAL
        bindings = [
            AclBinding(
                ResourceType[kind], name, pattern, f"User:{user}", "*", AclOperation[each], AclPermissionType.ALLOW
            )
            for each in operations
        ]
        for done in self.admin.create_acls(bindings).values():
            done.result(20)
        _soon(lambda: all(self._known(binding) for binding in bindings) or _fail(f"no {bindings}"))

    def _known(self, acl: AclBinding) -> bool:
        where = acl.restype, acl.name, acl.resource_pattern_type
        sought = AclBindingFilter(*where, acl.principal, acl.host, acl.operation, acl.permission_type)
        return bool(self.admin.describe_acls(sought).result(20))

    def may_work(self, user: str, topics: Topics, group: str) -> None:
        """What docs/security.md says a worker needs."""
        self.allow(user, "TOPIC", topics.audio, "READ", "DESCRIBE_CONFIGS")
        for name in (topics.final, topics.partial, topics.rejected):
            self.allow(user, "TOPIC", name, "WRITE", "DESCRIBE_CONFIGS")
        self.allow(user, "TOPIC", topics.streams, "READ", "WRITE", "DESCRIBE_CONFIGS")
        self.allow(user, "GROUP", group, "READ")
        self.allow(user, "TRANSACTIONAL_ID", f"{group}/{topics.audio}/", "WRITE", prefix=True)


def settings(authority: Authority) -> dict[str, str]:
    """Of a broker with LISTENERS: who has which certificate, and takes which mechanisms."""
    found = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:admin",
        "ssl.keystore.type": "PEM",
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.ca),
        "listener.name.mutual.ssl.client.auth": "required",
    }
    for listener, certificate in CERTIFICATES.items():
        both = authority.folder / f"{certificate}.both"
        found[f"listener.name.{listener.lower()}.ssl.keystore.location"] = str(both)
    for listener, mechanisms in MECHANISMS.items():
        name = f"listener.name.{listener.lower()}"
        found[f"{name}.sasl.enabled.mechanisms"] = mechanisms
        found[f"{name}.plain.sasl.jaas.config"] = f'{_PLAIN} user_admin="{PASSWORD}";'
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            found[f"{name}.{mechanism}.sasl.jaas.config"] = _SCRAM
    return found


def _soon(attempt: Callable[[], object]) -> None:
    """Brokers learn of users and rights a moment after they are made."""
    deadline = time.monotonic() + 10
    while True:
        try:
            attempt()
            return
        except (Unreachable, LookupError):
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _fail(why: str) -> None:
    raise LookupError(why)
