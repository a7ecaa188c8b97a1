"""For call-centre ingest: live audio onto Kafka.

    async with Producer("kafka:9092") as producer:
        async with Call(producer, "call-17/0", sample_rate=8000) as call:
            await call.send(pcm)

Needs neither torch nor the worker.
"""

from producer.call import Call
from producer.client import DeliveryError, Producer, ProducerError
from producer.security import Security, SecurityError
from producer.stereo import StereoCall, channels

__all__ = ["Call", "DeliveryError", "Producer", "ProducerError", "Security", "SecurityError", "StereoCall", "channels"]
