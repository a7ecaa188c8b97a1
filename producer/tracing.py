"""Following a chunk of audio from its producer to its events: W3C `traceparent` in the records' headers.

OpenTelemetry is optional (`pip install trunkline[tracing]`) and off unless asked for. How much is sampled, and where
spans go, is OpenTelemetry's own to set: OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG, OTEL_EXPORTER_OTLP_ENDPOINT.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from wire.topics import HEADER_TRACE

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

Headers = list[tuple[str, bytes]]
Traces = Literal["off", "otlp", "console"]


class TracingUnavailable(RuntimeError):
    """Traces are asked for and OpenTelemetry is not installed."""


def provider(traces: Traces, service: str) -> TracerProvider | None:
    """Where spans go; None for `off`. Raises TracingUnavailable."""
    if traces == "off":
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

        exporter: SpanExporter
        if traces == "otlp":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        else:
            exporter = ConsoleSpanExporter(formatter=lambda span: f"{span.to_json(indent=None)}\n")
    except ModuleNotFoundError as error:
        raise TracingUnavailable(
            f"traces need {error.name}, which is not installed: pip install 'trunkline[tracing]'"
        ) from None
    made = TracerProvider(resource=Resource.create({"service.name": service}))
    made.add_span_processor(BatchSpanProcessor(exporter))
    return made


class Tracer:
    """Begins spans, below the one that a record's header names if there is one."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._in_context = set_span_in_context
        self._tracer = provider.get_tracer("trunkline")
        self._propagator = TraceContextTextMapPropagator()

    def begin(
        self, name: str, attributes: Mapping[str, Any], parent: bytes | None = None, start_ns: int | None = None
    ) -> Span:
        """start_ns: since 1970; now if not given."""
        context = None
        if parent is not None:
            context = self._propagator.extract({HEADER_TRACE: parent.decode("ascii", "replace")})
        return self._tracer.start_span(name, context, attributes=dict(attributes), start_time=start_ns)

    def headers(self, span: Span) -> Headers:
        """What carries the span on; nothing for one that is not sampled."""
        if not span.get_span_context().trace_flags.sampled:
            return []
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, self._in_context(span))
        return [(HEADER_TRACE, carrier[HEADER_TRACE].encode())]
