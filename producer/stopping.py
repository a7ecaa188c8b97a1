"""A Kafka producer stopped within a time of ours; left to itself it waits for ever for a broker that is away."""

import asyncio
import logging

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

log = logging.getLogger(__name__)


async def stop_producer(kafka: AIOKafkaProducer, timeout_s: float) -> None:
    """Send what waits, and disconnect; when that takes longer, give up what waits and disconnect all the same."""
    try:
        async with asyncio.timeout(timeout_s):
            await kafka.stop()
    except (TimeoutError, KafkaError, AssertionError):  # the last from a client that has not found its brokers
        log.debug("the client did not stop by itself")
        await _abandon(kafka)


async def _abandon(kafka: AIOKafkaProducer) -> None:
    """A cancelled stop() leaves the client's tasks behind, trying for ever."""
    kafka._message_accumulator.fail_all(ProducerClosed())
    await kafka.client.close()
    task = kafka._sender.sender_task
    # The first cancellation makes it wait for its requests, which nobody answers any more.
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
