"""What the brokers allow this client to do, asked without doing it.

The client library has neither request in the version that tells the authorised operations: both are written out here.
Operations are bits, numbered as in Kafka's AclOperation.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

POLL_S = 0.05
READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS = 3, 4, 8, 10
NAMES = {READ: "Read", WRITE: "Write", DESCRIBE: "Describe", DESCRIBE_CONFIGS: "DescribeConfigs"}


async def topic_rights(client: AIOKafkaClient, names: list[str]) -> dict[str, frozenset[int] | str]:
    """For each topic the operations that are allowed, or the name of the error: it is missing, or may not be seen."""
    answer = await client.send(client.get_random_node(), _TopicRights(names))
    return {
        name: _operations(operations) if code == 0 else for_code(code).__name__
        for code, name, _, _, operations in answer.topics
    }


async def group_rights(client: AIOKafkaClient, group: str) -> frozenset[int]:
    """Raises GroupAuthorizationFailedError and other KafkaErrors."""

    async def ask() -> Any:
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        answer = (await client.send(node, _GroupRights(group))).groups[0]
        if answer[0]:
            raise for_code(answer[0])(group)
        return answer

    # a group that does not exist yet is told about all the same; from version 6 on it would be an error
    return _operations((await again(ask))[-1])


async def again(ask: Callable[[], Awaitable[Any]], seconds: float = 10.0) -> Any:
    """What is asked, repeated while a coordinator still starts or ends what was before. Raises KafkaError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        await asyncio.sleep(POLL_S)


def _operations(bits: int) -> frozenset[int]:
    return frozenset(number for number in NAMES if bits >> number & 1)


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", Array(("node", Int32), ("host", String()), ("port", Int32), ("rack", String()))),
        ("cluster_id", String()),
        ("controller", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String()),
                ("internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("in_sync", Array(Int32)),
                        ("offline", Array(Int32)),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
        ("cluster_operations", Int32),
    )


class _MetadataRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        ("topics", Array(String())), ("create", Boolean), ("cluster_operations", Boolean), ("topic_operations", Boolean)
    )


class _TopicRights(Request[_MetadataRequest]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequest]) -> Any:
        return request_struct_class(self._topics, False, False, True)


class _GroupsResponse(Response):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String()),
                ("state", String()),
                ("protocol_type", String()),
                ("protocol", String()),
                (
                    "members",
                    Array(
                        ("member", String()),
                        ("client", String()),
                        ("host", String()),
                        ("metadata", Bytes),
                        ("assignment", Bytes),
                    ),
                ),
                ("operations", Int32),
            ),
        ),
    )


class _GroupsRequest(RequestStruct):  # type: ignore[misc]
    API_KEY = 15
    API_VERSION = 3
    RESPONSE_TYPE = _GroupsResponse
    SCHEMA = Schema(("groups", Array(String())), ("operations", Boolean))


class _GroupRights(Request[_GroupsRequest]):  # type: ignore[misc]
    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_GroupsRequest]) -> Any:
        return request_struct_class([self._group], True)
