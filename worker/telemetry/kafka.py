"""How long Kafka's brokers take, request by request, and how often they do not answer."""

import re
import time
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from worker.telemetry.metrics import Metrics


def observe(client: AIOKafkaClient, metrics: Metrics) -> None:
    """Time each of the client's requests from here on, and count those that got no answer.

    What a broker refuses is an answer. All of a client's requests but its first, for the list of brokers, go through
    `send`; a record costs nothing here, since records travel many to a request.
    """
    send = client.send

    async def timed(node_id: int, request: Any, **options: Any) -> Any:
        name = _name(type(request).__name__)
        errors = metrics.kafka_errors.labels(name)  # so that its rate exists from the first request on
        began = time.monotonic()
        try:
            answer = await send(node_id, request, **options)
        except KafkaError:
            errors.inc()
            raise
        metrics.kafka_request.labels(name).observe(time.monotonic() - began)
        return answer

    client.send = timed


def _name(request: str) -> str:
    """`FetchRequest_v11` is Fetch."""
    return re.sub(r"Request(_v\d+)?$", "", request)
