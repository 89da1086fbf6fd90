"""The topics of the service, and how they come to be: names, partitions, settings."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError, TopicAlreadyExistsError, for_code

from streamer import access
from streamer.connection import start, stop
from streamer.errors import BrokerError, BrokerUnavailable
from streamer.settings import Settings

HOUR_MS = 60 * 60 * 1000
DAY_MS = 24 * HOUR_MS
MIB = 1024 * 1024
PARTITIONS = 4  # the most workers that can share a topic; more cannot be added later without moving keys
FRAMING_BYTES = 64 * 1024  # a topic's limit is on the batch: room for headers and Kafka's own fields around an output


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it should be; `settings` by Kafka's names, what is not named is the broker's default."""

    name: str
    partitions: int = PARTITIONS
    settings: Mapping[str, str] = field(default_factory=dict)
    replication_factor: int | None = None  # None: the broker's default; only for a topic that is created


@dataclass(frozen=True, slots=True)
class Ensured:
    """A topic as the broker has it; `differences`: setting -> (wanted, found or None)."""

    name: str
    partitions: int
    created: bool
    differences: Mapping[str, tuple[str, str | None]]


def source(name: str, partitions: int = PARTITIONS) -> Topic:
    """Describe a topic of listings.

    Kept for a month so that it can be replayed through a newer model. Never compacted: the key is the producers'
    choice and may stand for many products, of which compaction would keep one. The limit lets the largest valid
    listing through even where JSON writes each of its characters as six bytes.
    """
    return Topic(name, partitions, _kept(30 * DAY_MS, 4 * MIB))


def tags(name: str, max_output_bytes: int, partitions: int = PARTITIONS) -> Topic:
    """Describe the topic of tag events.

    Not compacted although the key is the product: which of its tags are newest is decided by listing version and model
    generation, and compaction would keep the last to arrive, be it a replay of an old listing.
    """
    return Topic(name, partitions, _kept(30 * DAY_MS, max_output_bytes + FRAMING_BYTES))


def latest(name: str, max_output_bytes: int, partitions: int = PARTITIONS) -> Topic:
    """Describe the compacted topic of each product's newest tags.

    Nothing in it expires: a product that nobody has edited for months still has its tags, and a deletion, a record like
    any other and no null value, must outlive everything that a replay could bring the product back from. What has been
    replaced is gone after a week, however quiet the topic is.
    """
    settings = {"cleanup.policy": "compact", "max.compaction.lag.ms": str(7 * DAY_MS)}
    return Topic(name, partitions, settings | {"max.message.bytes": str(max_output_bytes + FRAMING_BYTES)})


def dead_letters(name: str, max_output_bytes: int, partitions: int = PARTITIONS) -> Topic:
    """Describe the topic of dead letters: kept longest, since people look at them, and fix them, late."""
    return Topic(name, partitions, _kept(90 * DAY_MS, max_output_bytes + FRAMING_BYTES))


def retries(name: str, partitions: int = PARTITIONS) -> Topic:
    """Describe the topic of redriven records: kept as long as the dead letters, so that it tells which of them have
    been redriven; the limit leaves room for the largest source record and two headers."""
    return Topic(name, partitions, _kept(90 * DAY_MS, 4 * MIB + FRAMING_BYTES))


def attempts(name: str) -> Topic:
    """Describe the topic of the workers' marks: the last one of each partition counts, and one order of all of them."""
    return Topic(name, 1, {"cleanup.policy": "compact", "segment.ms": str(HOUR_MS)})


def adapters(name: str) -> Topic:
    """Describe the control topic: one order of all records, and all of them for ever.

    Compaction would keep the last record of a key, which may be void, and drop the valid one before it.
    """
    return Topic(name, 1, {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"})


def adapter_status(name: str) -> Topic:
    """Describe the topic of the workers' reports: heartbeats that nobody needs a while later."""
    # a segment is deleted as a whole, once it is closed
    settings = {"cleanup.policy": "delete", "retention.ms": str(HOUR_MS), "segment.ms": str(HOUR_MS // 6)}
    return Topic(name, 1, settings)


def wanted(
    settings: Settings, partitions: int = PARTITIONS, replication_factor: int | None = None
) -> tuple[Topic, ...]:
    """List the topics that the processes with these settings read and write."""
    newest = () if settings.latest_topic is None else (settings.latest_topic,)
    topics = (
        *(source(name, partitions) for name in settings.source_topics),
        tags(settings.tags_topic, settings.max_output_bytes, partitions),
        *(latest(name, settings.max_output_bytes, partitions) for name in newest),
        dead_letters(settings.dead_letter_topic, settings.max_output_bytes, partitions),
        retries(settings.retry_topic, partitions),
        attempts(settings.attempts_topic),
        adapters(settings.adapters_topic),
        adapter_status(settings.adapter_status_topic),
    )
    return tuple(replace(topic, replication_factor=replication_factor) for topic in topics)


def _kept(retention_ms: int, max_bytes: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(retention_ms), "max.message.bytes": str(max_bytes)}


async def ensure(topics: Iterable[Topic], *, timeout_s: float = 15.0, **client: Any) -> tuple[Ensured, ...]:
    """Create the topics that are missing and say how the others compare; returns once every partition has a leader.

    `client` is what an aiokafka client takes (`Settings.client_options()`). Settings of an existing topic are compared,
    never changed. Raises AccessDenied, BrokerUnavailable when nothing answers in time,
    BrokerError when a topic is refused or exists with fewer partitions than wanted.
    """
    deadline = time.monotonic() + timeout_s
    await access.check(client)
    admin = await _connect(client, deadline)
    try:
        return await _ensure(admin, tuple(topics), deadline)
    except (KafkaConnectionError, NodeNotReadyError, TimeoutError) as error:
        raise BrokerUnavailable(f"lost the broker at {_address(client)} while creating topics: {error!r}") from error
    except KafkaError as error:
        raise BrokerError(f"the broker at {_address(client)} did not create the topics: {error!r}") from error
    finally:
        await stop(admin)


async def _connect(client: Mapping[str, Any], deadline: float) -> AIOKafkaAdminClient:
    while True:
        admin = AIOKafkaAdminClient(**client)
        try:
            await start(admin)
        except KafkaConnectionError as error:
            await stop(admin)
            if time.monotonic() > deadline:
                raise BrokerUnavailable(f"no Kafka broker answers at {_address(client)}") from error
            await asyncio.sleep(0.2)
        except KafkaError as error:
            await stop(admin)
            raise BrokerError(f"the broker at {_address(client)} refused the connection: {error!r}") from error
        else:
            return admin


async def _ensure(admin: AIOKafkaAdminClient, topics: tuple[Topic, ...], deadline: float) -> tuple[Ensured, ...]:
    there = await _partitions(admin)
    missing = [topic for topic in topics if topic.name not in there]
    while missing and (await admin.describe_cluster())["controller_id"] < 0:  # the client would fall over None
        if time.monotonic() > deadline:
            raise BrokerUnavailable("the brokers answer but have no controller to create topics")
        await asyncio.sleep(0.02)
    created = await _create(admin, missing) if missing else set()
    while any(topic.name not in there for topic in topics):
        if time.monotonic() > deadline:
            names = ", ".join(topic.name for topic in topics if topic.name not in there)
            raise BrokerUnavailable(f"topics without a leader for each partition: {names}")
        await asyncio.sleep(0.02)
        there = await _partitions(admin)
    for topic in topics:
        if there[topic.name] < topic.partitions:
            raise BrokerError(
                f"{topic.name}: exists with {there[topic.name]} partitions, {topic.partitions} are wanted; "
                "adding some moves keys to other partitions, so this is for you to decide"
            )
    differences = await _differences(admin, topics)
    return tuple(
        Ensured(topic.name, there[topic.name], topic.name in created, differences[topic.name]) for topic in topics
    )


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Topic -> number of partitions, of those whose partitions all have a leader.

    Asks for all topics: a broker may create one that is asked for by name.
    """
    return {
        topic["topic"]: len(topic["partitions"])
        for topic in await admin.describe_topics()
        if topic["partitions"] and all(partition["leader"] >= 0 for partition in topic["partitions"])
    }


async def _create(admin: AIOKafkaAdminClient, topics: Iterable[Topic]) -> set[str]:
    response = await admin.create_topics(
        [
            NewTopic(
                topic.name,
                topic.partitions,
                # -1: the broker's default; the client takes it only beside an (empty) assignment of replicas
                topic.replication_factor or -1,
                None if topic.replication_factor else {},
                dict(topic.settings),
            )
            for topic in topics
        ]
    )
    created = set()
    for name, code, message in response.topic_errors:
        error = for_code(code)
        if code == 0:
            created.add(name)
        elif error is not TopicAlreadyExistsError:  # somebody else was faster
            raise BrokerError(f"{name}: the broker did not create the topic: {error.__name__}: {message}")
    return created


async def _differences(
    admin: AIOKafkaAdminClient, topics: tuple[Topic, ...]
) -> dict[str, dict[str, tuple[str, str | None]]]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in topics]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(asked):
        for resource in response.to_object()["resources"]:
            if code := resource["error_code"]:
                raise BrokerError(
                    f"{resource['resource_name']}: its settings cannot be read: {for_code(code).__name__}"
                )
            found[resource["resource_name"]] = {
                entry["config_names"]: entry["config_value"] for entry in resource["config_entries"]
            }
    return {
        topic.name: {
            name: (value, found[topic.name].get(name))
            for name, value in topic.settings.items()
            if found[topic.name].get(name) != value
        }
        for topic in topics
    }


def _address(client: Mapping[str, Any]) -> str:
    servers = client.get("bootstrap_servers", "")
    return servers if isinstance(servers, str) else ",".join(servers)
