"""How the commands read from Kafka: whole topics or single records, outside any consumer group."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from streamer.codec import Coordinates, Record
from streamer.errors import BrokerError, BrokerUnavailable, TopicMissing
from streamer.settings import Settings

POLL_MS = 500
LOOKUP_MS = 2_000  # for one record by its coordinates


@contextmanager
def translated(settings: Settings) -> Iterator[None]:
    """Raise the client's errors as BrokerUnavailable or BrokerError."""
    try:
        yield
    except KafkaConnectionError as error:
        raise BrokerUnavailable(f"no Kafka broker answers at {settings.kafka_bootstrap}") from error
    except KafkaError as error:
        raise BrokerError(f"{settings.kafka_bootstrap}: {type(error).__name__}") from error


def missing(topic: str, settings: Settings) -> TopicMissing:
    """The error for a topic that is not there."""
    return TopicMissing(f"{topic}: no such topic on {settings.kafka_bootstrap}; `streamer topics create` does it")


class Reader:
    """Reads topics from their beginning or from now on; an async context manager and iterator.

    "Now" is when entering it returns. Partitions added later are not noticed. Entering raises BrokerUnavailable,
    BrokerError or TopicMissing.
    """

    def __init__(self, settings: Settings, topics: Sequence[str], *, from_beginning: bool) -> None:
        self._settings = settings
        self._topics = topics
        self._consumer = _consumer(settings, "earliest" if from_beginning else "latest")

    async def __aenter__(self) -> Self:
        try:
            with translated(self._settings):
                await self._consumer.start()
                there = await self._consumer.topics()
                # Looked up before they are named: a broker may create a topic that is asked for by name.
                for topic in self._topics:
                    if topic not in there:
                        raise missing(topic, self._settings)
                partitions = [
                    TopicPartition(topic, partition)
                    for topic in self._topics
                    for partition in sorted(self._consumer.partitions_for_topic(topic))
                ]
                self._consumer.assign(partitions)
                for partition in partitions:
                    await self._consumer.position(partition)
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:
            with translated(self._settings):
                polled = await self._consumer.getmany(timeout_ms=POLL_MS)
            for messages in polled.values():
                for message in messages:
                    yield _record(message)


class Lookup:
    """Finds single records by their coordinates, cheapest in the order of a partition; an async context manager.

    Entering raises BrokerUnavailable or BrokerError.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer = _consumer(settings, "none")
        self._next: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        try:
            with translated(self._settings):
                await self._consumer.start()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

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
                return _record(message)
        self._next[partition] = -1  # wherever it stands now
        return None


def _consumer(settings: Settings, offset_reset: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        auto_offset_reset=offset_reset,
        enable_auto_commit=False,
        fetch_max_wait_ms=settings.fetch_max_wait_ms,
        **settings.client_options(),
    )


def _record(message: Any) -> Record:
    return Record(
        message.topic,
        message.partition,
        message.offset,
        message.timestamp,
        message.key,
        message.value,
        tuple(message.headers),
    )
