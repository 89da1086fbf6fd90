"""The control topic: read to its end, followed, and what does not belong on it; the workers' reports."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from structlog.testing import capture_logs

from streamer import topics
from streamer.broker import BrokerProcess
from streamer.codec import Codec
from streamer.control import Control
from streamer.errors import BrokerError, TopicMissing
from streamer.reporter import Reporter
from streamer.routing import RouteChange
from streamer.settings import Settings
from taggen.reference import Reference
from tests.conftest import client_options

CODEC = Codec()
BASE = "f" * 64
NewTopic = Callable[..., Awaitable[str]]


def record(revision: int) -> RouteChange:
    """A record of one merchant."""
    return RouteChange("acme", BASE, revision, "assign", Reference("a", str(revision), f"{revision:064x}"), None, 0)


@pytest.fixture
async def write(broker: BrokerProcess):
    """Write values to a topic."""
    async with AIOKafkaProducer(acks="all", **client_options(broker)) as producer:

        async def write(topic: str, *values: bytes | None) -> None:
            for value in values:
                await producer.send_and_wait(topic, value, b"key")

        yield write


def settings(broker: BrokerProcess, topic: str, **others: object) -> Settings:
    """For this topic."""
    return Settings(kafka_bootstrap=broker.bootstrap, adapters_topic=topic, fetch_max_wait_ms=100, **others)


async def test_read_to_its_end_and_followed(broker: BrokerProcess, new_topic: NewTopic, write) -> None:
    """Records of before and after the start come in order; what is none is passed over with its offset in the log;
    `up_to_date` waits for what was written before it was called."""
    topic = await new_topic("control")
    values = [CODEC.encode_route_change(record(revision)) for revision in range(1, 7)]
    await write(topic, values[0], b"junk", None, values[1])
    followed: list[int] = []
    control = Control(settings(broker, topic), CODEC, lambda change, _: followed.append(change.revision))
    with capture_logs() as logs:
        await control.start()
    assert (followed, control.next_offset) == ([1, 2], 4)
    assert [line["offset"] for line in logs if line["event"] == "control_record_skipped"] == [1, 2]
    following = asyncio.create_task(control.run())
    await write(topic, *values[2:])
    await asyncio.wait_for(control.up_to_date(), 10)
    assert followed == [1, 2, 3, 4, 5, 6]
    await asyncio.wait_for(control.up_to_date(), 10)
    await _ended(following)
    await control.stop()


async def test_an_empty_topic(broker: BrokerProcess, new_topic: NewTopic) -> None:
    """Has its end at its beginning."""
    control = Control(settings(broker, await new_topic("control")), CODEC, lambda *_: None)
    await asyncio.wait_for(control.start(), 10)
    assert control.next_offset == 0
    await asyncio.wait_for(control.up_to_date(), 10)
    await control.stop()


async def test_a_topic_that_cannot_be_one(broker: BrokerProcess, new_topic: NewTopic, unique) -> None:
    """A missing one is named with the command that makes it; one of several partitions has no single order."""
    for topic, error, words in (
        (unique("nowhere"), TopicMissing, "streamer topics create"),
        (await new_topic("control", partitions=2), BrokerError, "2 partitions"),
    ):
        control = Control(settings(broker, topic), CODEC, lambda *_: None)
        with pytest.raises(error, match=words):
            await control.start()
        await control.stop()


async def test_a_topic_that_is_deleted_and_made_anew(broker: BrokerProcess, new_topic: NewTopic, write) -> None:
    """Nobody waits for records that are no more: what is known stays known, and the log complains."""
    if broker.kind == "tansu":
        pytest.skip("the embedded broker answers for deleted topics")
    topic = await new_topic("control")
    await write(topic, *(CODEC.encode_route_change(record(revision)) for revision in (1, 2)))
    followed: list[int] = []
    control = Control(settings(broker, topic), CODEC, lambda change, _: followed.append(change.revision))
    await control.start()
    following = asyncio.create_task(control.run())
    admin = AIOKafkaAdminClient(**client_options(broker))
    await admin.start()
    await admin.delete_topics([topic])
    with capture_logs() as logs:
        await asyncio.wait_for(control.up_to_date(), 30)
        await topics.ensure([topics.adapters(topic)], **client_options(broker))
        await asyncio.wait_for(control.up_to_date(), 30)
    await admin.close()
    assert {line["event"] for line in logs} <= {"control_topic_missing", "control_not_readable"}
    assert logs
    assert (followed, control.next_offset) == ([1, 2], 2)
    await _ended(following)
    await control.stop()


async def test_reports_and_heartbeats(broker: BrokerProcess, new_topic: NewTopic) -> None:
    """A heartbeat at once, reports in their order as soon as there are some, under one name, with the offset that has
    been read."""
    topic = await new_topic("status")
    reporter = Reporter(settings(broker, "-", adapter_status_topic=topic), CODEC, BASE, lambda: 7)
    running = asyncio.create_task(reporter.run())
    async with AIOKafkaConsumer(fetch_max_wait_ms=50, **client_options(broker)) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        await consumer.seek_to_beginning()
        heard = [CODEC.decode_adapter_status((await asyncio.wait_for(consumer.getone(), 20)).value)]
        reference = record(1).adapter
        reporter.report("retrying", "acme", 1, reference, "store_unavailable", "x" * 10_000)
        reporter.report("verified", "acme", 1, reference)
        heard += [CODEC.decode_adapter_status((await asyncio.wait_for(consumer.getone(), 20)).value) for _ in range(2)]
    assert [status.state for status in heard] == ["heartbeat", "retrying", "verified"]
    assert {(status.worker, status.base_fingerprint, status.control_offset) for status in heard} == {
        (reporter.worker, BASE, 7)
    }
    assert (heard[0].merchant_id, heard[1].adapter, heard[2].reason) == (None, reference, None)
    assert len(heard[1].detail or "") <= 500
    await _ended(running)


async def _ended(task: "asyncio.Task[None]") -> None:
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})
