"""Reading topics and single records outside any group."""

import asyncio
import gc

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.conn import AIOKafkaConnection

from streamer.connection import Lookup, Reader, consumer, start, stop
from streamer.errors import BrokerUnavailable, TopicMissing
from streamer.records import Coordinates
from streamer.settings import Settings
from tests.conftest import client_options


@pytest.fixture
def settings(broker):
    """Settings that reach the broker and do not wait long for what is not there."""
    return Settings(kafka_bootstrap=broker.bootstrap, fetch_max_wait_ms=100)


async def write(broker, topic, values):
    """Write the values, all in one batch."""
    async with AIOKafkaProducer(**client_options(broker), linger_ms=50) as producer:
        sent = [await producer.send(topic, value, partition=0) for value in values]
        return [(await future).offset for future in sent]


async def first(reader):
    """The first record that a reader gives."""
    return await asyncio.wait_for(anext(aiter(reader)), 30)


async def test_from_now_on(broker, new_topic, settings):
    """A reader from now on sees nothing of before, not even of the newest batch, and everything of after."""
    topic = await new_topic("now")
    await write(broker, topic, [b"before"] * 50)
    async with Reader(settings, [topic], from_beginning=False) as reader:
        await write(broker, topic, [b"after"])
        record = await first(reader)
    assert (record.value, record.offset) == (b"after", 50)


async def test_from_the_beginning(broker, new_topic, settings):
    """A reader from the beginning sees what was there before it."""
    topic = await new_topic("all", partitions=2)
    await write(broker, topic, [b"1", b"2"])
    async with Reader(settings, [topic], from_beginning=True) as reader:
        assert (await first(reader)).value == b"1"


async def test_however_a_batch_is_compressed(broker, new_topic, settings):
    """Producers choose; each of Kafka's ways can be read."""
    topic = await new_topic("compressed")
    ways = (None, "gzip", "snappy", "lz4", "zstd")
    for way in ways:
        async with AIOKafkaProducer(**client_options(broker), compression_type=way) as producer:
            await producer.send_and_wait(topic, f"{way} ".encode() * 500, partition=0)
    async with Reader(settings, [topic], from_beginning=True) as reader:
        records = aiter(reader)
        values = [(await asyncio.wait_for(anext(records), 30)).value for _ in ways]
    assert values == [f"{way} ".encode() * 500 for way in ways]


async def test_lookup(broker, new_topic, settings):
    """Records are found in any order and over several topics; what the broker does not have is None."""
    one, other = await new_topic("one"), await new_topic("other")
    await write(broker, one, [b"%d" % number for number in range(20)])
    await write(broker, other, [b"other"])
    async with Lookup(settings) as lookup:
        for number in (3, 4, 5, 17, 0, 1):
            record = await lookup.find(Coordinates(one, 0, number))
            assert record is not None
            assert record.value == b"%d" % number
            if number == 5:
                assert (await lookup.find(Coordinates(other, 0, 0))).value == b"other"
        assert await lookup.find(Coordinates(one, 0, 900)) is None
        assert (await lookup.find(Coordinates(one, 0, 19))).value == b"19"


async def test_a_start_that_is_cancelled_leaves_no_connection(broker, settings):
    """At whichever step; aiokafka by itself would forget one that waits for its first answer."""

    def connections():
        return [one for one in gc.get_objects() if type(one) is AIOKafkaConnection]

    before = connections()
    for steps in range(0, 60, 3):
        client = consumer(settings, "earliest")
        starting = asyncio.create_task(start(client))
        for _ in range(steps):
            await asyncio.sleep(0.0003)
        starting.cancel()
        await asyncio.wait({starting})
        await client.stop()
    del client, starting
    gc.collect()
    assert not [one for one in connections() if one not in before and one.connected()]


async def test_a_stop_that_is_cancelled_stops_and_is_cancelled(settings):
    """At whichever step; aiokafka by itself would take it for its own task's cancellation, and the caller go on."""
    for steps in range(1, 6):
        client = consumer(settings, "earliest", "somebody")
        await start(client)
        stopping = asyncio.create_task(stop(client))
        for _ in range(steps):
            await asyncio.sleep(0)
        stopping.cancel()
        await asyncio.wait({stopping})
        assert stopping.cancelled()
        assert not any(one.connected() for one in client._client._conns.values())


async def test_topic_that_is_not_there(settings, unique):
    """A missing topic is named, with the command that makes it, and is not made by asking."""
    name = unique("missing")
    for _ in range(2):
        with pytest.raises(TopicMissing, match=f"{name}: no such topic on .*streamer topics create"):
            async with Reader(settings, [name], from_beginning=True):
                pass


async def test_no_broker(own_broker):
    """A broker that is gone is one clear error."""
    own_broker.stop()
    with pytest.raises(BrokerUnavailable, match=f"no Kafka broker answers at {own_broker.bootstrap}"):
        async with Reader(Settings(kafka_bootstrap=own_broker.bootstrap), ["any"], from_beginning=True):
            pass
