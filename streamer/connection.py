"""How the commands read from Kafka: whole topics or single records, outside any consumer group."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from streamer import access, unpack
from streamer.errors import BrokerError, BrokerUnavailable
from streamer.records import Coordinates, Record
from streamer.settings import Settings

POLL_MS = 500
LOOKUP_MS = 2_000  # for one record by its coordinates
ABANDON_S = 2.0  # how long a start or stop that is cancelled may take to end by itself

unpack.install()


@contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Raise the client's errors as BrokerUnavailable or BrokerError."""
    try:
        yield
    except KafkaConnectionError as error:
        raise BrokerUnavailable(f"no Kafka broker answers at {settings.kafka_bootstrap}") from error
    except KafkaError as error:
        raise BrokerError(f"{settings.kafka_bootstrap}: {type(error).__name__}") from error


Client: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient


async def start(client: Client) -> None:
    """Start a client, as its own `start`. A cancellation lets it get there first, if that takes no longer than a
    moment: aiokafka forgets the connection that it is just making, which then stays open."""
    await _to_its_end(client.start())
    # a task of aiokafka's own: cancelled by `stop` before it has begun, it would let the cancellation out
    await asyncio.sleep(0)


async def stop(client: Client) -> None:
    """Stop a client, as its own `stop` or `close`. A cancellation lets it get there first, as in `start`: aiokafka
    takes it for the end of the task of its own that it waits for, and whoever was cancelled goes on."""
    await _to_its_end(client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop())


async def _to_its_end(step: Coroutine[Any, Any, None]) -> None:
    doing = asyncio.create_task(step)
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        if not (await asyncio.wait({doing}, timeout=ABANDON_S))[0]:
            doing.cancel()
        elif not doing.cancelled():
            doing.exception()  # nobody wants to hear of it any more
        raise


async def partitions(settings: Settings, topics: Sequence[str]) -> list[TopicPartition]:
    """The partitions of the topics. Raises TopicMissing, AccessDenied, BrokerUnavailable or BrokerError."""
    client = settings.client_options()
    await access.check(client)
    with translated(settings):
        admin = AIOKafkaAdminClient(**client)
        try:
            await start(admin)
            # All are asked for: a broker may create a topic that is asked for by name.
            there = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
            for topic in topics:
                if topic not in there:
                    raise await access.missing(admin, topic, client)
        finally:
            await stop(admin)
    return [TopicPartition(topic, partition["partition"]) for topic in topics for partition in there[topic]]


class Reader:
    """Reads topics from their beginning or from now on; an async context manager and iterator.

    "Now" is when entering it returns. Partitions added later are not noticed. Entering raises BrokerUnavailable,
    BrokerError or TopicMissing.
    """

    def __init__(self, settings: Settings, topics: Sequence[str], *, from_beginning: bool) -> None:
        self._settings = settings
        self._topics = topics
        self._from_beginning = from_beginning
        self._consumer = consumer(settings, "earliest")

    async def __aenter__(self) -> Self:
        try:
            assigned = await partitions(self._settings, self._topics)
            with translated(self._settings):
                await start(self._consumer)
                self._consumer.assign(assigned)
                if not self._from_beginning:
                    await self._seek_to_end(assigned)
        except BaseException:
            await stop(self._consumer)
            raise
        return self

    async def _seek_to_end(self, assigned: list[TopicPartition]) -> None:
        """Skip what is there. The end is what a fetch says: asked for its end offsets, the embedded broker names the
        second record of the newest batch."""
        await self._consumer.seek_to_end()
        while any(self._consumer.highwater(partition) is None for partition in assigned):
            await self._consumer.getmany(timeout_ms=POLL_MS)
        for partition in assigned:
            self._consumer.seek(partition, self._consumer.highwater(partition))

    async def __aexit__(self, *_: object) -> None:
        await stop(self._consumer)

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:
            with translated(self._settings):
                polled = await self._consumer.getmany(timeout_ms=POLL_MS)
            for messages in polled.values():
                for message in messages:
                    yield record_of(message)


class Lookup:
    """Finds single records by their coordinates, cheapest in the order of a partition; an async context manager.

    Entering raises BrokerUnavailable or BrokerError.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer = consumer(settings, "none")
        self._next: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        await connect(self._consumer, self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop(self._consumer)

    async def find(self, coordinates: Coordinates) -> Record | None:
        """The record at these coordinates, None when the broker does not have it (any more)."""
        partition = TopicPartition(coordinates.topic, coordinates.partition)
        if partition not in self._next:
            self._next[partition] = coordinates.offset
            self._consumer.assign(list(self._next))  # forgets all positions
            for known, offset in self._next.items():
                self._consumer.seek(known, offset)
        elif self._next[partition] != coordinates.offset:
            self._consumer.seek(partition, coordinates.offset)
        try:
            polled = await self._consumer.getmany(partition, timeout_ms=LOOKUP_MS, max_records=1)
        except KafkaError:
            polled = {}
        for message in polled.get(partition, ()):
            self._next[partition] = message.offset + 1
            if message.offset == coordinates.offset:
                return record_of(message)
        del self._next[partition]  # wherever it stands now
        return None


def consumer(settings: Settings, offset_reset: str, group_id: str | None = None) -> AIOKafkaConsumer:
    """A consumer for partitions that are assigned by hand; with a group it reads and commits that group's offsets and
    does not join it. What a transaction has aborted is nowhere to be seen."""
    return AIOKafkaConsumer(
        group_id=group_id,
        auto_offset_reset=offset_reset,
        enable_auto_commit=False,
        isolation_level="read_committed",
        fetch_max_wait_ms=settings.fetch_max_wait_ms,
        **settings.client_options(),
    )


async def connect(client: AIOKafkaConsumer, settings: Settings) -> None:
    """Start a consumer, or leave it stopped. Raises AccessDenied, BrokerUnavailable or BrokerError."""
    try:
        await access.check(settings.client_options())
        with translated(settings):
            await start(client)
    except BaseException:
        await stop(client)
        raise


def record_of(message: Any) -> Record:
    """The record in a message of aiokafka's."""
    return Record(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.key,
        message.value,
        tuple(message.headers),
    )
