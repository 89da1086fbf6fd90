"""A record's trace goes through a batch and out with its output."""

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

import streamer
from streamer.broker import free_port
from streamer.codec import Codec
from streamer.errors import SettingsError
from streamer.pipeline import Output, Pipeline, Stage
from streamer.records import Record
from streamer.settings import Settings
from streamer.tracing import FLUSH_S, MAX_HEADER_BYTES, Tracing
from streamer.worker import TRACED_BY, load_tracing
from taggen.listing import Listing
from tests.unit.fakes import FakeTagger

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
READ, FORMED, MODEL = 1_764_000_000.0, 1_764_000_000.5, Stage(1_764_000_001.0, 0.25)


def parent(trace: str = TRACE, flags: str = "01") -> tuple[str, bytes]:
    """A header of whoever wrote a record."""
    return "traceparent", f"00-{trace}-{SPAN}-{flags}".encode()


def outputs(*headers: tuple[tuple[str, bytes | None], ...]) -> list[Output]:
    """The outputs of a listing for each of the records' headers; the last one of two or more is a dead letter's."""
    good = Codec().encode_listing(Listing("acme", "p", 1, "Boots 绝密"))
    values = [good] * len(headers)
    if len(values) > 1:
        values[-1] = b"junk"
    records = [Record("in", 2, at, 0, None, *one) for at, one in enumerate(zip(values, headers, strict=True))]
    return Pipeline(Settings(), Codec(), FakeTagger()).process(records)


@pytest.fixture
def finished() -> Iterator[tuple[Tracing, InMemorySpanExporter]]:
    """Tracing, and what has become of its spans."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing(provider), exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The finished spans; those of one name are the same to the test."""
    return {span.name: span for span in exporter.get_finished_spans()}


def test_one_trace_from_header_to_header(finished: tuple[Tracing, InMemorySpanExporter]) -> None:
    """consume is a child of the header's span, batch of consume, model of batch, produce of consume; the output's
    header names produce; times are those of the stages; nothing of the listing is in them."""
    tracing, exporter = finished
    with tracing.batch(outputs((parent(),)), [READ], FORMED, MODEL) as written:
        assert not by_name(exporter).keys() - {"model"}  # the others last until the broker has it
    spans = by_name(exporter)
    assert list(spans) == ["model", "produce product-tags", "batch", "consume in"]
    model, produce, batch, consume = spans.values()
    assert {format(span.context.trace_id, "032x") for span in spans.values()} == {TRACE}
    assert format(consume.parent.span_id, "016x") == SPAN
    assert [span.parent.span_id for span in (batch, model, produce)] == [
        span.context.span_id for span in (consume, batch, consume)
    ]
    assert written[0].headers == (("traceparent", f"00-{TRACE}-{produce.context.span_id:016x}-01".encode()),)
    assert (consume.start_time, batch.start_time) == (READ * 1e9, FORMED * 1e9)
    assert (model.start_time, model.end_time) == (MODEL.began * 1e9, (MODEL.began + MODEL.seconds) * 1e9)
    assert (consume.kind, produce.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert consume.attributes["messaging.kafka.offset"] == 0
    assert "绝密" not in json.dumps([span.to_json() for span in spans.values()], ensure_ascii=False)


def test_a_batch_of_several_traces(finished: tuple[Tracing, InMemorySpanExporter]) -> None:
    """Each record's trace goes on in its own output, a dead letter's with an error; a record without one begins one;
    the batch stands in the first and is linked to the others, and each produce to it."""
    tracing, exporter = finished
    headers = [(parent(),), (), (parent("1" * 32),)]
    with tracing.batch(outputs(*headers), [READ] * 3, FORMED, MODEL) as written:
        pass
    traces = [dict(output.headers)["traceparent"].decode().split("-")[1] for output in written]
    assert (traces[0], traces[2]) == (TRACE, "1" * 32)
    assert traces[1] not in (TRACE, "1" * 32, "0" * 32)
    spans = by_name(exporter)
    batch = spans["batch"]
    assert [format(link.context.trace_id, "032x") for link in batch.links] == traces[1:]
    produced = [span for span in exporter.get_finished_spans() if span.name.startswith("produce")]
    assert [span.name for span in produced] == ["produce product-tags"] * 2 + ["produce product-tags-dlq"]
    assert {link.context.span_id for span in produced for link in span.links} == {batch.context.span_id}
    consumed = [span for span in exporter.get_finished_spans() if span.name.startswith("consume")]
    assert [span.status.description for span in consumed] == [None, None, "undecodable"]


def test_an_unsampled_trace_goes_on_unsampled(finished: tuple[Tracing, InMemorySpanExporter]) -> None:
    """Whoever began the trace has decided: no spans, and the same trace in the output's header."""
    tracing, exporter = finished
    with tracing.batch(outputs((parent(flags="00"),)), [READ], FORMED, MODEL) as [written]:
        pass
    assert exporter.get_finished_spans() == ()
    [(_, value)] = written.headers
    assert value.startswith(f"00-{TRACE}-".encode())
    assert value.endswith(b"-00")


def test_what_no_sampler_takes_costs_no_spans() -> None:
    """With a sampler that takes none, the worker goes on as ever."""
    tracing = Tracing(TracerProvider(sampler=ParentBased(ALWAYS_OFF)))
    with tracing.batch(outputs((), (parent(),)), [READ] * 2, FORMED, MODEL) as written:
        assert len(written) == 2


@pytest.mark.parametrize(
    "header",
    [("traceparent", None), ("traceparent", b"\xff"), ("traceparent", b"00-0-0-00"), ("tracestate", b"x" * 99)],
)
def test_a_broken_header_begins_a_trace(
    header: tuple[str, Any], finished: tuple[Tracing, InMemorySpanExporter]
) -> None:
    """Anybody may write one; it is never more than left out."""
    tracing, _ = finished
    with tracing.batch(outputs((header,)), [READ], FORMED, MODEL) as [written]:
        assert [name for name, _ in written.headers] == ["traceparent"]


@pytest.mark.parametrize(("length", "kept"), [(100, True), (252, True), (600, False)])
def test_headers_are_bounded(length: int, kept: bool, finished: tuple[Tracing, InMemorySpanExporter]) -> None:
    """tracestate goes along while it is short: what an output grows by is bounded, for its topic's limit counts it."""
    tracing, _ = finished
    state = ",".join(f"k{number}=" + "v" * (length // 3) for number in range(3)).encode()
    with tracing.batch(outputs((parent(), ("tracestate", state))), [READ], FORMED, MODEL) as [written]:
        names = [name for name, _ in written.headers]
    assert names == (["traceparent", "tracestate"] if kept else ["traceparent"])
    assert sum(len(name) + len(value) + 4 for name, value in written.headers) <= MAX_HEADER_BYTES


def test_a_failed_write_is_an_error(finished: tuple[Tracing, InMemorySpanExporter]) -> None:
    """The spans end all the same, and say which."""
    tracing, exporter = finished
    with pytest.raises(ConnectionError), tracing.batch(outputs((parent(),)), [READ], FORMED, MODEL):
        raise ConnectionError
    spans = by_name(exporter)
    assert {spans[name].status.status_code for name in ("consume in", "batch")} == {StatusCode.ERROR}
    assert spans["consume in"].status.description == "ConnectionError"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Without any of OpenTelemetry's variables."""
    for name in (*TRACED_BY, "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"},
    ],
)
def test_off_unless_configured(variables: dict[str, str], environment: pytest.MonkeyPatch) -> None:
    """OpenTelemetry's own variables switch it on, and off."""
    for name, value in variables.items():
        environment.setenv(name, value)
    assert load_tracing() is None


@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
def test_what_it_cannot_do_stops_the_start(name: str, value: str, environment: pytest.MonkeyPatch) -> None:
    """One line with the variable."""
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name}: must be"):
        load_tracing()


def test_without_opentelemetry(environment: pytest.MonkeyPatch) -> None:
    """It is an extra: where it is not installed, a worker that is asked to trace says what to install."""
    environment.delattr(streamer, "tracing")
    environment.setitem(sys.modules, "streamer.tracing", None)
    assert load_tracing() is None
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    with pytest.raises(SettingsError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: .* pip install 'stream-taggen\[tracing\]'"):
        load_tracing()


def test_a_collector_that_is_gone_holds_nothing_up(environment: pytest.MonkeyPatch) -> None:
    """At the end what is left is offered to it for a while, no longer."""
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    tracing = load_tracing()
    assert tracing is not None
    with tracing.batch(outputs(()), [READ], FORMED, MODEL):
        pass
    began = time.monotonic()
    tracing.close()
    assert time.monotonic() - began < 2 * FLUSH_S
