"""OpenTelemetry traces: a record's goes in by its header traceparent, through the worker, and out by its output's.

    consume   of each record, from the worker's intake to the broker's acknowledgement: a child of whoever wrote it
      batch   of the micro-batch, from its forming on: a child of its first record's, linked to the others'
        model     the model call
      produce   of each output: what its readers go on from

Spans are made when a batch is about to be written, with the times that the agent has measured, so that the stages
themselves know nothing of them. They carry ids and coordinates, never text of a listing.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from streamer.errors import SettingsError
from streamer.pipeline import Deleted, Output, Rejected, Stage

PARENT, STATE = "traceparent", "tracestate"
MAX_STATE_BYTES = 512  # a longer one is left out, as the standard allows
MAX_HEADER_BYTES = len(PARENT) + 55 + len(STATE) + MAX_STATE_BYTES + 8  # what an output grows by; 8 for their lengths
FLUSH_S = 2.0

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of a worker."""

    header_bytes = MAX_HEADER_BYTES

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("streamer")

    @contextmanager
    def batch(
        self, outputs: Sequence[Output], read: Sequence[float], formed: float, model: Stage
    ) -> Iterator[list[Output]]:
        """Trace a batch while it is written: gives its outputs with the headers for whoever reads them.

        `read` says when the record of each output was read, `formed` when the batch was; in seconds since 1970.
        """
        consumed = [self._consume(output, _ns(began)) for output, began in zip(outputs, read, strict=True)]
        whole = self._batch(consumed, formed, model)
        produced = [self._produce(output, span, whole) for output, span in zip(outputs, consumed, strict=True)]
        spans = [*produced, whole, *consumed]
        try:
            yield [output._replace(headers=_headers(span)) for output, span in zip(outputs, produced, strict=True)]
        except BaseException as error:
            for span in spans:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise
        finally:
            for span in spans:
                span.end()

    def close(self) -> None:
        """Send what is left; what a collector in trouble does not take in time is lost."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)  # its own limits are longer, or ignored
        sending.start()
        sending.join(FLUSH_S)

    def _consume(self, output: Output, began_ns: int) -> Span:
        outcome = output.outcome
        record = outcome.record
        parent = _PROPAGATOR.extract(_readable(record.headers), Context())
        span = self._tracer.start_span(f"consume {record.topic}", parent, SpanKind.CONSUMER, start_time=began_ns)
        if span.is_recording():
            span.set_attributes(
                {
                    "messaging.system": "kafka",
                    "messaging.operation.type": "process",
                    "messaging.destination.name": record.topic,
                    "messaging.destination.partition.id": str(record.partition),
                    "messaging.kafka.offset": record.offset,
                }
            )
            if isinstance(outcome, Rejected):
                span.set_status(Status(StatusCode.ERROR, outcome.reason))
            else:
                span.set_attribute("streamer.merchant", outcome.listing.merchant_id)
                span.set_attribute("streamer.deleted", isinstance(outcome, Deleted))
        return span

    def _batch(self, consumed: Sequence[Span], formed: float, model: Stage) -> Span:
        recorded = [span for span in consumed if span.is_recording()]
        if not recorded:
            return trace.INVALID_SPAN
        first, *others = recorded
        span = self._tracer.start_span(
            "batch",
            trace.set_span_in_context(first, Context()),
            links=[Link(other.get_span_context()) for other in others],
            attributes={"messaging.batch.message_count": len(consumed)},
            start_time=_ns(formed),
        )
        call = self._tracer.start_span("model", trace.set_span_in_context(span, Context()), start_time=_ns(model.began))
        call.end(_ns(model.began + model.seconds))
        return span

    def _produce(self, output: Output, consumed: Span, whole: Span) -> Span:
        return self._tracer.start_span(
            f"produce {output.topic}",
            trace.set_span_in_context(consumed, Context()),
            SpanKind.PRODUCER,
            {
                "messaging.system": "kafka",
                "messaging.operation.type": "send",
                "messaging.destination.name": output.topic,
                "messaging.message.body.size": len(output.value),
            },
            [Link(whole.get_span_context())] if whole.is_recording() else None,
        )


def from_environment() -> Tracing:
    """Traces to an OTLP collector; the SDK reads OTEL_* for where, how many and under what name.

    Raises SettingsError for what it cannot do.
    """
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp")
    if exporter != "otlp":
        raise SettingsError("OTEL_TRACES_EXPORTER: must be otlp or none")
    for name in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if os.environ.get(name, "http/protobuf") != "http/protobuf":
            raise SettingsError(f"{name}: must be http/protobuf")
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create(None if named else {"service.name": "streamer"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _readable(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    return {
        name: value.decode("ascii", "replace")
        for name, value in headers
        if name in (PARENT, STATE) and value is not None
    }


def _headers(span: Span) -> tuple[tuple[str, bytes], ...]:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    written = ((name, value.encode()) for name, value in carrier.items())
    return tuple((name, value) for name, value in written if name != STATE or len(value) <= MAX_STATE_BYTES)


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
