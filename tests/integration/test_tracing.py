"""A worker's traces, as a collector gets them, and the headers that carry them through Kafka."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from aiokafka import AIOKafkaProducer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from streamer.connection import Reader
from streamer.settings import Settings
from tests.brokers import TANSU
from tests.integration.test_worker import avro
from tests.workers import Stage

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        """All that came."""
        resources = [spans for request in self.requests for spans in request.resource_spans]
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]

    @property
    def services(self) -> set[str]:
        """Who sent them."""
        attributes = [each.resource.attributes for request in self.requests for each in request.resource_spans]
        return {pair.value.string_value for pairs in attributes for pair in pairs if pair.key == "service.name"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


@TANSU  # what carries headers for one does for the other
async def test_a_trace_through_a_worker(stage: Stage, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer's trace goes on in the worker's spans and in the headers of tag event and dead letter; what was not
    yet sent is when the worker stops."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")  # only the end sends them
    await stage.create_topics()
    headers = [("traceparent", f"00-{TRACE}-{SPAN}-01".encode())]
    async with AIOKafkaProducer(bootstrap_servers=stage.broker.bootstrap) as producer:
        sent = [await producer.send_and_wait(stage.source, value, headers=headers) for value in (avro(0), b"junk")]
    with stage.worker() as worker:
        await stage.outcomes([(one.topic, one.partition, one.offset) for one in sent])
        assert collector.spans == []
        worker.terminate()
        assert await worker.exit_code() == 0
    assert collector.services == {"streamer"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    consumed = [span for span in collector.spans if span.name == f"consume {stage.source}"]
    assert [span.parent_span_id.hex() for span in consumed] == [SPAN, SPAN]
    assert {"batch", "model"} < {span.name for span in collector.spans}
    settings = Settings(kafka_bootstrap=stage.broker.bootstrap, fetch_max_wait_ms=100)
    for topic in stage.targets:
        [produced] = [span for span in collector.spans if span.name == f"produce {topic}"]
        async with Reader(settings, [topic], from_beginning=True) as reader:
            [(name, value)] = (await anext(aiter(reader))).headers
        assert (name, value) == ("traceparent", f"00-{TRACE}-{produced.span_id.hex()}-01".encode())
