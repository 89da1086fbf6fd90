"""What must hold before a worker consumes: the broker answers, the topics are there, the group's offsets too."""

import asyncio
import time

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from streamer.errors import BrokerError, BrokerUnavailable, OffsetLost, TopicMissing
from streamer.settings import Settings

KAFKA_MAX_MESSAGE_BYTES = 1_048_588  # Kafka's default of max.message.bytes
BATCH_OVERHEAD_BYTES = 128  # a record batch of one record: 61 of header, the rest lengths and timestamps
PROBE_S = 1.0
_PAUSE_S = 1.0

log = structlog.get_logger(__name__)


async def preflight(settings: Settings) -> int:
    """Check the broker; returns the largest output (key and value, bytes) that both target topics take.

    Raises BrokerUnavailable after `broker_retry_s`, TopicMissing, OffsetLost.
    """
    consumer = await _connect(settings)
    try:
        await _check_topics(consumer, settings)
        await _check_offsets(consumer, settings)
        return min(settings.max_output_bytes, await _max_message_bytes(settings) - BATCH_OVERHEAD_BYTES)
    except KafkaError as error:
        raise BrokerError(f"{settings.kafka_bootstrap}: {type(error).__name__} while checking topics") from error
    finally:
        await consumer.stop()


async def _connect(settings: Settings) -> AIOKafkaConsumer:
    deadline = time.monotonic() + settings.broker_retry_s
    while True:
        consumer = AIOKafkaConsumer(
            group_id=settings.group_id,
            enable_auto_commit=False,
            auto_offset_reset="none",
            **settings.client_options(),
        )
        try:
            await consumer.start()
            return consumer
        except KafkaError as error:
            await consumer.stop()
            if time.monotonic() + _PAUSE_S > deadline:
                raise BrokerUnavailable(
                    f"{settings.kafka_bootstrap}: no broker answered within {settings.broker_retry_s:g} s "
                    f"({type(error).__name__}, {settings.security_protocol})"
                ) from error
            log.warning("broker_not_reachable", bootstrap=settings.kafka_bootstrap, error=type(error).__name__)
            await asyncio.sleep(_PAUSE_S)


async def _check_topics(consumer: AIOKafkaConsumer, settings: Settings) -> None:
    there = await consumer.topics()
    for topic in (*settings.source_topics, settings.tags_topic, settings.dead_letter_topic):
        if topic not in there:
            raise TopicMissing(
                f"{topic}: no such topic on {settings.kafka_bootstrap}; `streamer topics create` does it"
            )


async def _check_offsets(consumer: AIOKafkaConsumer, settings: Settings) -> None:
    """A committed offset below the oldest record or beyond the newest would make Kafka jump, silently."""
    partitions = [
        TopicPartition(topic, partition)
        for topic in settings.source_topics
        for partition in consumer.partitions_for_topic(topic) or ()
    ]
    consumer.assign(partitions)
    beginnings = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    for partition in partitions:
        committed = await consumer.committed(partition)
        if committed is None:
            continue
        beginning, end = beginnings[partition], ends[partition]
        # Not every broker tells its end exactly; a fetch does.
        if committed < beginning or (committed > end and not await _fetchable(consumer, partition, committed)):
            raise OffsetLost(partition.topic, partition.partition, committed, beginning, end)


async def _fetchable(consumer: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> bool:
    consumer.seek(partition, offset)
    try:
        await consumer.getmany(partition, timeout_ms=int(PROBE_S * 1000))
    except OffsetOutOfRangeError:
        return False
    return True


async def _max_message_bytes(settings: Settings) -> int:
    """The smaller max.message.bytes of the two target topics."""
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    try:
        topics = (settings.tags_topic, settings.dead_letter_topic)
        answers = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
    finally:
        await admin.close()
    limits = [
        int(entry[1])
        for answer in answers
        for resource in answer.resources
        for entry in resource[4]
        if entry[0] == "max.message.bytes" and entry[1] is not None
    ]
    return min([*limits, KAFKA_MAX_MESSAGE_BYTES] if len(limits) < len(topics) else limits)
