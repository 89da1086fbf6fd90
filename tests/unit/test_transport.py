"""Our consumer inside Faust: what would go unnoticed if a release of Faust or aiokafka renamed what we build on."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from faust.types import TP, ConsumerMessage

from streamer.settings import Settings
from streamer.stream import RawSchema, Stream
from streamer.transport import Consumer
from streamer.worker import App, build_app

PARTITION = TP("product-created", 0)


class NoAgent:
    """An agent that is never run."""

    async def run(self, stream: Any) -> None:
        raise NotImplementedError


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """A worker's app that is not started; its consumer has a thread's event loop already."""
    app = build_app(Settings(fetch_max_wait_ms=123, queue_bytes=1_000), NoAgent())  # type: ignore[arg-type]
    yield app
    app.consumer._thread.thread_loop.close()


async def test_the_app_consumes_with_our_parts(app: App) -> None:
    """Faust makes our consumer and our streams, with the settings that it has no name for."""
    assert isinstance(app.consumer, Consumer)
    assert isinstance(app.stream(app.topic("t")), Stream)
    client = app.consumer._thread._create_worker_consumer(app.transport)
    assert client._fetch_max_wait_ms == 123
    assert client._isolation_level == "read_committed"
    await client.stop()


async def test_values_stay_bytes(app: App) -> None:
    """Whatever they are, Faust does not try to decode them."""
    topic = app.topic("t", schema=RawSchema())
    topic._compile_decode()
    message = ConsumerMessage("t", 0, 7, 1.0, 0, [("h", b"x")], b"\xff", b"\xfe", None, tp=TP("t", 0))
    event = await topic.decode(message)
    assert (event.key, event.value, event.message) == (b"\xff", b"\xfe", message)


async def test_buffered_bytes_are_bounded(app: App) -> None:
    """Handing over stops at the limit and goes on when the agent has taken enough, or when a rebalance drops all."""
    consumer = app.consumer
    consumer._buffered_bytes = 1_500
    assert consumer._full
    consumer.release(400)
    assert consumer._full
    consumer.release(200)
    assert not consumer._full
    consumer._buffered_bytes = 1_500
    consumer.stop_flow()
    assert not consumer._full


async def test_a_full_stream_holds_the_consumer_until_it_has_emptied(app: App) -> None:
    """Faust calls back at four fifths and at two fifths of the stream's buffer; a rebalance empties it."""
    consumer = app.consumer
    consumer.on_buffer_full(PARTITION)
    assert consumer._full
    consumer.on_buffer_drop(PARTITION)
    assert not consumer._full
    consumer.on_buffer_full(PARTITION)
    consumer.stop_flow()
    assert not consumer._full
