"""The five topics: create them once, check them at every start.

Only `create` makes topics. The worker calls `check` and refuses to start on any problem, since a topic that a
broker makes by itself has the wrong partition count and keeps the stream table by age, which loses calls.
`client` stands for aiokafka's connection options (bootstrap_servers, security_protocol, ...). Both raise
aiokafka.errors.KafkaError when the cluster cannot be reached.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from wire.topics import Topics, TopicSpec, specs

# The settings on which correctness rests; the rest (retention, sizes) is the operator's to change.
_REQUIRED = ("cleanup.policy", "segment.bytes", "max.compaction.lag.ms", "message.timestamp.type")
# How long a topic just created may take to have a leader on every partition.
_LEADERS_S = 30.0


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the cluster has it: partition count, replicas of its first partition, all settings."""

    name: str
    partitions: int
    replication: int
    config: dict[str, str | None]


@dataclass(slots=True)
class Report:
    """What `create` did. `differences` are sentences about settings that topics had already."""

    created: list[str] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)


async def create(wanted: Sequence[TopicSpec], **client: Any) -> Report:
    """Create the topics that are missing; leave those that exist as they are and report what differs.

    Returns when every partition of the new topics has a leader.
    """
    names = [spec.name for spec in wanted]
    async with _admin(client) as admin:
        before = await _describe(admin, names)
        report = Report(existing=[name for name in names if name in before])
        missing = [spec for spec in wanted if spec.name not in before]
        if missing:
            response = await admin.create_topics(
                [NewTopic(s.name, s.partitions, s.replication, topic_configs=s.config) for s in missing]
            )
            for name, code, message in response.topic_errors:
                if for_code(code) is TopicAlreadyExistsError:
                    report.existing.append(name)  # by another `create` at the same moment
                elif code:
                    raise for_code(code)(f"cannot create topic {name}: {message}")
                else:
                    report.created.append(name)
            before |= await _leaders(admin, names)
    for spec in wanted:
        if spec.name in report.existing:
            report.differences += _differences(spec, before[spec.name])
    return report


async def check(topics: Topics, **client: Any) -> list[str]:
    """Why the worker cannot run on these topics: one sentence per problem, each with its remedy."""
    found = await describe(astuple(topics), **client)
    problems = [
        f"Topic {name} does not exist (or this client may not see it); "
        "create the topics with `trunkline topics create`."
        for name in astuple(topics)
        if name not in found
    ]
    audio = found.get(topics.audio)
    for spec in specs(topics, audio.partitions if audio else 0):
        state = found.get(spec.name)
        if state is None:
            continue
        if audio is not None and state.partitions != audio.partitions:
            problems.append(
                f"Topic {state.name} has {state.partitions} partitions and {audio.name} has "
                f"{audio.partitions}; the counts must be equal. Add partitions to the smaller one while no "
                "call is running, or delete and create it again."
            )
        problems += [
            f"Topic {state.name} has {name}={state.config.get(name)}; the worker needs {name}={value}. "
            f"Set it with `kafka-configs --alter --topic {state.name} --add-config {name}={value}`."
            for name, value in spec.config.items()
            if name in _REQUIRED and state.config.get(name) != value
        ]
    return problems


async def describe(names: Sequence[str], **client: Any) -> dict[str, TopicState]:
    """Those of the named topics that exist, by name. Never creates one."""
    async with _admin(client) as admin:
        return await _describe(admin, names)


async def delete(names: Sequence[str], **client: Any) -> None:
    """Delete topics and all that is in them; names that do not exist are passed over."""
    async with _admin(client) as admin:
        existing = await _describe(admin, names)
        if existing:
            await admin.delete_topics(list(existing))


@asynccontextmanager
async def _admin(client: Mapping[str, Any]) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**client)
    try:
        await admin.start()
        yield admin
    finally:
        await admin.close()


async def _describe(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, TopicState]:
    # All topics are asked for: naming one that does not exist would make a permissive broker create it.
    metadata = {topic["topic"]: topic for topic in await admin.describe_topics()}
    present = [name for name in names if name in metadata]
    config: dict[str, dict[str, str | None]] = {}
    if present:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in present]
        for response in await admin.describe_configs(resources):
            for code, message, _, name, entries in response.resources:
                if code:
                    raise for_code(code)(f"cannot read the settings of topic {name}: {message}")
                config[name] = {entry[0]: entry[1] for entry in entries}
    return {
        name: TopicState(
            name,
            len(metadata[name]["partitions"]),
            len(metadata[name]["partitions"][0]["replicas"]),
            config[name],
        )
        for name in present
    }


async def _leaders(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, TopicState]:
    deadline = time.monotonic() + _LEADERS_S
    while True:
        found = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
        if all(name in found and all(p["leader"] >= 0 for p in found[name]) for name in names):
            return await _describe(admin, names)
        if time.monotonic() > deadline:
            raise KafkaError(f"the new topics have no leader on every partition after {_LEADERS_S:.0f} s")
        await asyncio.sleep(0.1)


def _differences(spec: TopicSpec, state: TopicState) -> list[str]:
    found: dict[str, object] = {
        "partitions": state.partitions,
        "replication factor": state.replication,
        **{name: state.config.get(name) for name in spec.config},
    }
    wanted = {"partitions": spec.partitions, "replication factor": spec.replication, **spec.config}
    return [
        f"Topic {spec.name} exists with {name} {found[name]}, not {value}."
        for name, value in wanted.items()
        if found[name] != value
    ]
