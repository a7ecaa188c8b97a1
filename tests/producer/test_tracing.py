"""Records carry their span's `traceparent`, and only where tracing is asked for and the trace is sampled."""

import asyncio

import pytest
from confluent_kafka import Consumer, TopicPartition
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

from producer import Call, Producer, tracing
from tests.conftest import PARTITIONS
from wire import Topics

pytestmark = pytest.mark.kafka


def sent(kafka: str, topics: Topics, provider: TracerProvider | None) -> list[dict[str, str]]:
    """The headers of the records of one short call, as another client reads them."""

    async def call() -> int:
        async with Producer(kafka, topics.audio, tracer_provider=provider) as producer:
            async with Call(producer, "traced/0") as call:
                await call.send(b"\0" * 1600)
                await call.send(b"\0" * 1600)
            return producer.partition(b"traced/0")

    partition = asyncio.run(call())
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "unused", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topics.audio, partition, 0)])
    messages = consumer.consume(4, timeout=20)
    consumer.close()
    assert 0 <= partition < PARTITIONS
    assert len(messages) == 4  # start, two of audio, end
    return [{name: value.decode() for name, value in message.headers() or []} for message in messages]


def provider(sampler) -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    made = TracerProvider(sampler=sampler)
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made, exporter


def test_each_record_carries_the_span_that_was_exported_for_it(kafka, topics):
    made, exporter = provider(ALWAYS_ON)
    headers = sent(kafka, topics, made)
    spans = exporter.get_finished_spans()
    exported = {f"{span.context.trace_id:032x}-{span.context.span_id:016x}" for span in spans}
    assert {each["traceparent"].split("-", 1)[1].rsplit("-", 1)[0] for each in headers} == exported
    assert len(exported) == 4
    assert {span.name for span in spans} == {f"send {topics.audio}"}
    assert [span.attributes["trunkline.position"] for span in spans] == [0, 0, 800, 1600]
    assert all(span.attributes["trunkline.stream"] == "traced/0" for span in spans)


def test_what_is_not_sampled_costs_no_header(kafka, topics):
    made, exporter = provider(ALWAYS_OFF)
    assert sent(kafka, topics, made) == [{}] * 4
    assert exporter.get_finished_spans() == ()


def test_without_a_provider_there_are_no_headers(kafka, topics):
    assert sent(kafka, topics, None) == [{}] * 4
    assert tracing.provider("off", "x") is None


def test_a_missing_library_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(tracing.TracingUnavailable, match=r"pip install 'trunkline\[tracing\]'"):
        tracing.provider("console", "x")
