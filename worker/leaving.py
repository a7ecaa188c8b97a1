"""A consumer stopped within a time of ours; left to itself it may wait for ever, for brokers or for its group."""

import asyncio
import logging

from aiokafka import AIOKafkaConsumer
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import LeaveGroupRequest

log = logging.getLogger(__name__)


async def stop_consumer(consumer: AIOKafkaConsumer, timeout_s: float) -> bool:
    """Leave the group, if the consumer is in one, and disconnect; False if that was not done in time."""
    try:
        async with asyncio.timeout(timeout_s):
            # the first begins to close before the second can make it join again
            await asyncio.gather(consumer.stop(), _withdraw(consumer))
    except (TimeoutError, KafkaError):
        await consumer._client.close()
        return False
    return True


async def _withdraw(consumer: AIOKafkaConsumer) -> None:
    """Leave a group that is still to let the consumer in; the client would wait for that before it leaves.

    The group answers a join when all members have come, or their sessions have ended. A connection that waits for an
    answer takes no other request, so this goes by another.
    """
    if consumer._group_id is None or consumer._group_instance_id is not None:  # a static member never leaves
        return
    coordinator = consumer._coordinator
    subscription = consumer._subscription.subscription
    if (
        coordinator is None
        or coordinator.coordinator_id is None
        or not coordinator.member_id
        or not coordinator.need_rejoin(subscription)
    ):
        return
    request = LeaveGroupRequest(coordinator.group_id, coordinator.member_id)
    try:
        await consumer._client.send(coordinator.coordinator_id, request, group=ConnectionGroup.DEFAULT)
    except KafkaError as error:
        log.debug("a join cannot be withdrawn: %r", error)
