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
    # the first begins to close before the second can make it join again
    tasks = [asyncio.create_task(consumer.stop()), asyncio.create_task(_withdraw(consumer))]
    try:
        _, late = await asyncio.wait(tasks, timeout=timeout_s)
    finally:
        for task in tasks:
            task.cancel()
    # One that was cancelled, and not by us, has left the group: the client stumbles over a fetch that failed just now.
    errors = [error for task in tasks if task.done() and not task.cancelled() and (error := task.exception())]
    if late or any(task.cancelled() for task in tasks) or errors:
        await consumer._client.close()
    for error in errors:
        if not isinstance(error, KafkaError):
            raise error
    return not late and not errors


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
