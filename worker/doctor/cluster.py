"""Kafka, as a worker needs it: reachable, with the right topics, enough retention, and leave to use them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import astuple
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import InvalidTransactionTimeout, KafkaError

from producer.reach import Unreachable, reach
from worker.doctor import rights
from worker.doctor.finding import Finding, error, ok, skipped, warning
from worker.doctor.rights import DESCRIBE_CONFIGS, READ, WRITE
from worker.doctor.trial import trial
from worker.ingest import topics
from worker.ingest.topics import TopicState
from worker.settings import KafkaSettings

CLOCK_WARNING_S, CLOCK_ERROR_S = 0.5, 60.0  # delays are measured in tenths; brokers refuse records of the far future
MISSING, UNSEEN = "UnknownTopicOrPartitionError", "TopicAuthorizationFailedError"


class Cluster:
    """`check` tells what it finds, in an order in which later checks rest on earlier ones."""

    def __init__(self, settings: KafkaSettings, longest_call_s: float, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._longest = longest_call_s
        self._clock = clock
        self._user = f"User:{settings.sasl_username}" if settings.security.has_sasl else "this worker's principal"

    async def check(self) -> AsyncIterator[Finding]:
        settings = self._settings
        options = settings.client()
        began = time.monotonic()
        try:
            brokers = await reach(options, settings.request_timeout_ms / 1000)
        except (Unreachable, ValueError) as reason:
            yield error(
                "broker",
                str(reason),
                "see kafka.bootstrap_servers, kafka.security_protocol, kafka.sasl_* and kafka.ssl_*",
            )
            return
        took = 1000 * (time.monotonic() - began)
        named = ", ".join(f"{host}:{port}" for host, port in brokers)
        yield ok("broker", f"{named} let this client in ({settings.security_protocol}, {took:.0f} ms)")
        client = AIOKafkaClient(**options, request_timeout_ms=settings.request_timeout_ms)
        try:
            await client.bootstrap()
            async for finding in self._topics(client, options, len(brokers)):
                yield finding
        except (KafkaError, TimeoutError, OSError) as reason:
            yield error("broker", f"a request failed: {reason!r}", "look at the brokers' log")
        finally:
            await client.close()

    async def _topics(self, client: AIOKafkaClient, options: dict[str, Any], brokers: int) -> AsyncIterator[Finding]:
        names = self._settings.topics
        allowed = await rights.topic_rights(client, list(astuple(names)))
        found = [self._topic_rights(name, allowed[name]) for name in astuple(names)]
        for each in found:
            if each is not None:
                yield each
        if not any(found):
            yield ok("topics' ACLs", "all five may be read and written as needed")
        yield await self._group_rights(client)
        readable = [n for n in astuple(names) if not isinstance(allowed[n], str) and DESCRIBE_CONFIGS in allowed[n]]
        states = await topics.describe(readable, **options)
        if len(readable) == len(astuple(names)):
            problems = await topics.check(names, **options)
            for problem in problems:
                text, _, remedy = problem.partition("; ")
                yield error("topics", text, remedy or problem)
            if not problems:
                yield ok("topics", f"{len(states)} topics of {states[names.audio].partitions} partitions each")
        elif all(allowed[name] != MISSING for name in astuple(names)):
            yield skipped("topics", "counts and settings cannot be read without leave")
        for finding in self._kept(states, brokers):
            yield finding
        async for finding in self._trial(client, options, allowed[names.streams]):
            yield finding

    def _topic_rights(self, name: str, allowed: frozenset[int] | str) -> Finding | None:
        if allowed == MISSING:
            return error("topics", f"topic {name} does not exist", "`trunkline topics create`")
        names = self._settings.topics
        needed = [READ] if name in (names.audio, names.streams) else []
        needed += [WRITE] if name != names.audio else []
        needed += [DESCRIBE_CONFIGS]
        lacking = needed if isinstance(allowed, str) else [each for each in needed if each not in allowed]
        if not lacking:
            return None
        operations = " ".join(f"--operation {rights.NAMES[each]}" for each in lacking)
        return error(
            "topics' ACLs",
            f"topic {name} may not be used for {', '.join(rights.NAMES[each] for each in lacking)}"
            + ("" if not isinstance(allowed, str) or allowed == UNSEEN else f" ({allowed})"),
            f"`kafka-acls --add --allow-principal {self._user} --topic {name} {operations}`",
        )

    async def _group_rights(self, client: AIOKafkaClient) -> Finding:
        group = self._settings.group
        try:
            if READ in await rights.group_rights(client, group):
                return ok("group's ACL", f"{group} may be joined")
            why = "may not be joined"
        except KafkaError as reason:
            why = f"may not be joined ({type(reason).__name__})"
        add = f"`kafka-acls --add --allow-principal {self._user} --group {group} --operation Read`"
        return error("group's ACL", f"group {group} {why}", add)

    def _kept(self, states: dict[str, TopicState], brokers: int) -> list[Finding]:
        """Whether a restart finds what it needs on the audio topic."""
        found = []
        audio = states.get(self._settings.audio_topic)
        if audio is not None:
            found.append(self._retention(audio))
        if (single := copies(states.values(), brokers)) is not None:
            found.append(single)
        return found

    def _retention(self, audio: TopicState) -> Finding:
        kept_ms, kept_bytes = int(audio.config["retention.ms"] or -1), int(audio.config["retention.bytes"] or -1)
        longest = f"the longest call is taken to be {hours(self._longest)} (--longest-call)"
        if 0 <= kept_ms < 1000 * self._longest:
            return error(
                "retention",
                f"{audio.name} keeps audio for {hours(kept_ms / 1000)}; {longest}: a restart would lose words",
                f"`kafka-configs --alter --topic {audio.name} --add-config retention.ms={int(2000 * self._longest)}`",
            )
        if kept_bytes >= 0:
            return warning(
                "retention",
                f"{audio.name} is cut at {kept_bytes} bytes a partition, however long calls are",
                f"`kafka-configs --alter --topic {audio.name} --delete-config retention.bytes`, or watch "
                "trunkline_lag_seconds",
            )
        return ok("retention", f"audio is kept for {hours(kept_ms / 1000) if kept_ms >= 0 else 'ever'}; {longest}")

    async def _trial(
        self, client: AIOKafkaClient, options: dict[str, Any], streams: frozenset[int] | str
    ) -> AsyncIterator[Finding]:
        settings = self._settings
        if settings.delivery != "exactly_once":
            yield skipped("transactions", f"kafka.delivery is {settings.delivery}")
            yield skipped("clock", "the brokers' time is read from a transaction")
            return
        if isinstance(streams, str) or not {READ, WRITE} <= streams:
            yield skipped("transactions", f"{settings.streams_topic} cannot be used")
            yield skipped("clock", "the brokers' time is read from a transaction")
            return
        prefix = f"{settings.group}/{settings.audio_topic}/"
        place = TopicPartition(settings.streams_topic, 0)
        try:
            async with asyncio.timeout(settings.transaction_timeout_ms / 1000):
                found = await trial(
                    client, options, f"{prefix}doctor", place, settings.transaction_timeout_ms, self._clock
                )
        except (KafkaError, TimeoutError) as reason:
            if "Authorization" in type(reason).__name__:
                yield error(
                    "transactions",
                    f"transactional ids {prefix}* may not be used ({type(reason).__name__})",
                    f"`kafka-acls --add --allow-principal {self._user} --transactional-id {prefix} "
                    "--resource-pattern-type prefixed --operation Write`",
                )
            elif isinstance(reason, InvalidTransactionTimeout):
                yield error(
                    "transactions",
                    f"kafka.transaction_timeout_ms is {settings.transaction_timeout_ms}, longer than the brokers allow",
                    "lower it, or raise the brokers' transaction.max.timeout.ms",
                )
            else:
                yield error(
                    "transactions",
                    f"none could be begun and ended: {reason!r}",
                    "look at the brokers' log; kafka.delivery: at_least_once does without",
                )
            yield skipped("clock", "the brokers' time is read from a transaction")
            return
        yield ok("transactions", f"one was begun and aborted in {1000 * found.seconds:.0f} ms")
        yield _clock(found.ahead_s)


def copies(states: Iterable[TopicState], brokers: int) -> Finding | None:
    """Topics that one of several brokers takes away with it."""
    single = [state.name for state in states if state.replication == 1]
    if not single or brokers == 1:
        return None
    return warning("copies", f"{', '.join(single)} lie on one broker each", "raise the replication factor to 3")


def _clock(ahead_s: float) -> Finding:
    text = f"this machine's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the broker's"
    remedy = "synchronise both with the same time servers (NTP); delays and lag are measured between them"
    if abs(ahead_s) > CLOCK_ERROR_S:
        return error("clock", text, remedy)
    if abs(ahead_s) > CLOCK_WARNING_S:
        return warning("clock", text, remedy)
    return ok("clock", f"within {CLOCK_WARNING_S:g} s of the broker's")


def hours(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"
