"""What must hold before a worker consumes: the broker answers, the topics are there, the group's offsets too."""

import asyncio
import time

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, OffsetOutOfRangeError, UnrecognizedBrokerVersion

from streamer import access
from streamer.connection import consumer, start, stop
from streamer.errors import BrokerError, BrokerUnavailable, OffsetLost
from streamer.settings import Settings

KAFKA_MAX_MESSAGE_BYTES = 1_048_588  # Kafka's default of max.message.bytes
BATCH_OVERHEAD_BYTES = 128  # a record batch of one record: 61 of header, the rest lengths and timestamps
PROBE_S = 1.0
PAUSE_S = 1.0

log = structlog.get_logger(__name__)


async def preflight(settings: Settings) -> int:
    """Check the broker; returns the largest output (key and value, bytes) that both target topics take.

    A broker that is not there, drops us in the handshake or is just changing its leaders is asked again.
    Raises BrokerUnavailable after `broker_retry_s`, TopicMissing, OffsetLost, BrokerError.
    """
    deadline = time.monotonic() + settings.broker_retry_s
    while True:
        try:
            return await _attempt(settings)
        except KafkaError as error:
            if not (error.retriable or isinstance(error, UnrecognizedBrokerVersion)):
                raise BrokerError(f"{settings.kafka_bootstrap}: {type(error).__name__} on checking topics") from error
            if time.monotonic() + PAUSE_S > deadline:
                raise BrokerUnavailable(
                    f"{settings.kafka_bootstrap}: no broker answered within {settings.broker_retry_s:g} s "
                    f"({type(error).__name__}, {settings.security_protocol})"
                ) from error
            log.warning("broker_not_reachable", bootstrap=settings.kafka_bootstrap, error=type(error).__name__)
            await asyncio.sleep(PAUSE_S)


async def _attempt(settings: Settings) -> int:
    await access.check(settings.client_options())
    admin = AIOKafkaAdminClient(**settings.client_options())
    try:
        await start(admin)
        sources = await _check_topics(admin, settings)
        max_bytes = await _max_message_bytes(admin, settings)
        await _check_offsets(sources, settings)
    finally:
        await stop(admin)
    return min(settings.max_output_bytes, max_bytes - BATCH_OVERHEAD_BYTES)


async def _check_topics(admin: AIOKafkaAdminClient, settings: Settings) -> list[TopicPartition]:
    """The partitions to read; asks for all topics, because a broker may create one that is asked for by name."""
    there = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
    control = () if settings.adapter_store is None else (settings.adapters_topic, settings.adapter_status_topic)
    ours = settings.tags_topic, settings.dead_letter_topic, settings.attempts_topic
    for topic in (*settings.input_topics, *ours, *control):
        if topic not in there:
            raise await access.missing(admin, topic, settings.client_options())
    return [
        TopicPartition(topic, partition["partition"]) for topic in settings.input_topics for partition in there[topic]
    ]


async def _check_offsets(partitions: list[TopicPartition], settings: Settings) -> None:
    """A committed offset below the oldest record or beyond the newest would make the consumer jump, silently."""
    client = consumer(settings, "none", settings.group_id)
    try:
        await start(client)
        client.assign(partitions)
        beginnings = await client.beginning_offsets(partitions)
        ends = await client.end_offsets(partitions)
        for partition in partitions:
            committed = await client.committed(partition)
            if committed is None:
                continue
            beginning, end = beginnings[partition], ends[partition]
            # not every broker tells its end exactly; a fetch does
            if committed < beginning or (committed > end and not await _fetchable(client, partition, committed)):
                raise OffsetLost(partition.topic, partition.partition, committed, beginning, end)
    finally:
        await stop(client)


async def _fetchable(client: AIOKafkaConsumer, partition: TopicPartition, offset: int) -> bool:
    client.seek(partition, offset)
    try:
        await client.getmany(partition, timeout_ms=int(PROBE_S * 1000))
    except OffsetOutOfRangeError:
        return False
    return True


async def _max_message_bytes(admin: AIOKafkaAdminClient, settings: Settings) -> int:
    """The smaller max.message.bytes of the two target topics."""
    targets = (settings.tags_topic, settings.dead_letter_topic)
    limits = []
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in targets]):
        for resource in answer.to_object()["resources"]:
            values = {entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]}
            limits.append(int(values.get("max.message.bytes") or KAFKA_MAX_MESSAGE_BYTES))
    return min(limits)
