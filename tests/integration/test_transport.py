"""Our consumer inside Faust, on real brokers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition

from streamer.broker import BrokerProcess
from streamer.settings import Settings
from streamer.worker import build_app
from tests.brokers import SLOW_ON_KAFKA
from tests.conftest import client_options

pytestmark = SLOW_ON_KAFKA


class Reader:
    """An agent that only reads."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    async def run(self, stream: Any) -> None:
        async for event in stream.events():
            self._events.put_nowait(event)

    async def next(self, count: int) -> list[Any]:
        """The next events."""
        async with asyncio.timeout(30):
            return [await self._events.get() for _ in range(count)]


async def test_what_nobody_has_committed_is_read_again(
    broker: BrokerProcess, new_topic: Callable[..., Awaitable[str]], unique: Callable[[str], str]
) -> None:
    """After partitions have moved, also where the group has no offset at all: what was fetched meanwhile was dropped,
    and the client's position is behind it."""
    source, retries = await new_topic("created", partitions=1), await new_topic("retry", partitions=1)
    async with AIOKafkaProducer(acks="all", **client_options(broker)) as producer:
        for number in range(10):
            await producer.send_and_wait(source, b"%d" % number)
    settings = Settings(
        kafka_bootstrap=broker.bootstrap,
        group_id=unique("group"),
        source_topics=(source,),
        retry_topic=retries,
        session_timeout_s=3,
        fetch_max_wait_ms=100,
    )
    reader, read = Reader(), list[Any]()
    app = build_app(settings, reader)  # type: ignore[arg-type]
    running = asyncio.create_task(app.start())
    try:
        read += await reader.next(10)
        consumer = app.consumer
        assert await consumer.position(TopicPartition(source, 0)) == 10
        await consumer.perform_seek()  # as Faust does when partitions have moved
        read += await reader.next(10)
        assert [event.message.offset for event in read] == 2 * list(range(10))
    finally:
        for event in read:  # the app does not stop before
            event.ack()
        await app.stop()
        await asyncio.wait({running}, timeout=10)
