"""Creating topics on real brokers."""

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from streamer import topics
from streamer.broker import free_port
from streamer.errors import BrokerError, BrokerUnavailable
from streamer.settings import Settings
from streamer.topics import Topic, ensure
from tests.brokers import KAFKA


async def test_created_once(broker, unique):
    """The first call creates the topics with their settings, the second finds them as they should be."""
    kinds = ("created", "updated", "tags", "dlq", "retry", "attempts", "adapters", "status")
    names = {name: unique(name) for name in kinds}
    settings = Settings(
        kafka_bootstrap=broker.bootstrap,
        source_topics=(names["created"], names["updated"]),
        tags_topic=names["tags"],
        dead_letter_topic=names["dlq"],
        retry_topic=names["retry"],
        attempts_topic=names["attempts"],
        adapters_topic=names["adapters"],
        adapter_status_topic=names["status"],
    )
    wanted = topics.wanted(settings, partitions=3)
    first = await ensure(wanted, **settings.client_options())
    second = await ensure(wanted, **settings.client_options())
    assert [topic.name for topic in first] == list(names.values())
    assert [topic.partitions for topic in first] == [topic.partitions for topic in second] == [3, 3, 3, 3, 3, 1, 1, 1]
    assert all(topic.created and not topic.differences for topic in first)
    assert all(not topic.created and not topic.differences for topic in second)


async def test_differences(broker, unique):
    """Settings of an existing topic that differ are reported and left as they are; fewer partitions are an error."""
    name = unique("differs")
    before = Topic(name, 2, {"retention.ms": "1000000"})
    await ensure([before], bootstrap_servers=broker.bootstrap)
    [found] = await ensure([Topic(name, 1, {"retention.ms": "2000000"})], bootstrap_servers=broker.bootstrap)
    assert (found.created, found.partitions) == (False, 2)
    assert found.differences == {"retention.ms": ("2000000", "1000000")}
    with pytest.raises(BrokerError, match=f"{name}: exists with 2 partitions, 3 are wanted"):
        await ensure([Topic(name, 3)], bootstrap_servers=broker.bootstrap)


async def test_message_size(broker, new_topic):
    """The size limit is the topic's own: a large record goes into a topic that allows it and not into another."""
    large = await new_topic("large", settings={"max.message.bytes": "12000000"})
    small = await new_topic("small", settings={"max.message.bytes": "10000"})
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, max_request_size=12_000_000) as producer:
        await producer.send_and_wait(large, bytes(10_500_000))
        if broker.kind == "tansu":  # it keeps a limit as a note and enforces none
            return
        with pytest.raises(MessageSizeTooLargeError):
            await producer.send_and_wait(small, bytes(20_000))


@KAFKA  # tansu takes all
async def test_refused(broker, unique):
    """A topic that the broker refuses is an error that names it and the broker's reason."""
    name = unique("bad name!")
    with pytest.raises(BrokerError, match=f"{name}: the broker did not create the topic: InvalidTopic"):
        await ensure([Topic(name)], bootstrap_servers=broker.bootstrap)


async def test_unreachable():
    """Nobody listening is one error that names the address, after the time allowed."""
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(BrokerUnavailable, match=f"no Kafka broker answers at {address}"):
        await ensure([Topic("any")], bootstrap_servers=address, timeout_s=0.5)
