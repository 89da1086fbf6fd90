"""Writing outputs: a producer of our own, because Faust's is not idempotent and its commit ignores failed sends."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, RequestTimedOutError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import BatchBuilder

from streamer.connection import start, stop
from streamer.errors import BrokerError, BrokerUnavailable, DeliveryError
from streamer.pipeline import Output
from streamer.settings import KIB, Settings

MAX_BATCH_BYTES = 256 * KIB  # one micro-batch of outputs fits one request per partition
PING_S = 5.0
STOP_S = 2.0

_PARTITIONER = DefaultPartitioner()


class Note(NamedTuple):
    """A record that is no output: something the workers tell each other."""

    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Delivery:
    """Sends the outputs of a batch and waits until the broker has all of them."""

    def __init__(self, settings: Settings, max_output_bytes: int) -> None:
        """`max_output_bytes` is what both target topics take, which also limits a batch of outputs."""
        self._settings = settings
        self._max_batch_bytes = min(MAX_BATCH_BYTES, max_output_bytes)
        self._producer: AIOKafkaProducer | None = None

    async def start(self) -> None:
        """Connect; raises BrokerUnavailable, or BrokerError when the broker has no idempotent producers."""
        settings = self._settings
        producer = AIOKafkaProducer(
            acks="all",
            enable_idempotence=settings.idempotent_producer,
            max_batch_size=self._max_batch_bytes,
            request_timeout_ms=int(settings.broker_retry_s * 1000),
            **settings.client_options(),
        )
        try:
            async with asyncio.timeout(settings.broker_retry_s):
                await start(producer)
        except (KafkaError, TimeoutError) as error:
            await stop(producer)
            if settings.idempotent_producer and not isinstance(error, KafkaError):
                raise BrokerError(
                    f"{settings.kafka_bootstrap}: gives no producer id; for a broker without idempotent producers set "
                    "STREAMER_IDEMPOTENT_PRODUCER=false"
                ) from error
            raise BrokerUnavailable(f"{settings.kafka_bootstrap}: {type(error).__name__} on connecting") from error
        self._producer = producer

    async def stop(self) -> None:
        """Disconnect. Something is pending only after a failure, and then it is not waited for."""
        if self._producer is not None:
            await asyncio.wait({asyncio.create_task(self._producer.stop())}, timeout=STOP_S)

    async def send(self, outputs: Sequence[Output]) -> None:
        """Write the outputs, those of one topic and key in order; returns when the broker has acknowledged all.

        One request's batch per partition, built here: sending them one by one costs three times as much, and a wait.

        Raises BrokerUnavailable after `broker_retry_s` without an answer, DeliveryError when the broker refuses.
        """
        if self._producer is None:
            raise DeliveryError("not started")
        if not outputs:
            return
        sent: list[tuple[Output, asyncio.Future[object]]] = []  # the first output of each batch, and the answer to it
        first = outputs[0]
        try:
            for (topic, partition), group in (await _by_partition(self._producer, outputs)).items():
                at = 0
                while at < len(group):
                    batch, first = self._producer.create_batch(), group[at]
                    at = _fill(batch, group, at)
                    sent.append((first, await self._producer.send_batch(batch, topic, partition=partition)))
        except KafkaError as error:
            await _settle([future for _, future in sent])
            raise self._translated(_where(first), error) from error
        await _settle([future for _, future in sent])
        for first, future in sent:
            if (failure := future.exception()) is not None:
                if not isinstance(failure, KafkaError):
                    raise failure
                raise self._translated(_where(first), failure) from failure

    async def write(self, topic: str, notes: Sequence[Note]) -> int:
        """Write notes, at least one, to the first partition of a topic, in order, and wait as `send` does.

        Returns the offset of the last one; raises as `send`.
        """
        if self._producer is None:
            raise DeliveryError("not started")
        at = offset = 0
        try:
            while at < len(notes):
                batch, first = self._producer.create_batch(), at
                at = _fill(batch, notes, at)
                written = await (await self._producer.send_batch(batch, topic, partition=0))
                offset = written.offset + at - first - 1
        except KafkaError as error:
            raise self._translated(f"{topic}: a batch", error) from error
        return offset

    async def alive(self) -> bool:
        """Whether the broker answers a metadata request now."""
        if self._producer is None:
            return False
        try:
            async with asyncio.timeout(PING_S):
                answered: bool = await self._producer.client.force_metadata_update()
        except (KafkaError, TimeoutError):
            return False
        return answered

    def _translated(self, where: str, error: KafkaError) -> BrokerError:
        if isinstance(error, KafkaTimeoutError | RequestTimedOutError):
            return BrokerUnavailable(
                f"{where} was not acknowledged within {self._settings.broker_retry_s:g} s by "
                f"{self._settings.kafka_bootstrap}"
            )
        if isinstance(error, MessageSizeTooLargeError):
            return DeliveryError(f"{where} is larger than the topic's max.message.bytes")
        return DeliveryError(f"{where} was refused: {type(error).__name__}")


def _where(first: Output) -> str:
    source = first.outcome.record
    return f"{first.topic}: a batch that begins with the output of {source.topic}/{source.partition}/{source.offset}"


async def _by_partition(producer: AIOKafkaProducer, outputs: Sequence[Output]) -> dict[tuple[str, int], list[Output]]:
    """The outputs by topic and partition, in order; the partition of a key is the one that every Kafka client takes."""
    partitions: dict[str, list[int]] = {}
    groups: dict[tuple[str, int], list[Output]] = {}
    for output in outputs:
        topic = output.topic
        if topic not in partitions:
            partitions[topic] = sorted(await producer.partitions_for(topic))
        partition = _PARTITIONER(output.key, partitions[topic], partitions[topic])
        groups.setdefault((topic, partition), []).append(output)
    return groups


def _fill(batch: BatchBuilder, outputs: Sequence[Output | Note], at: int) -> int:
    """Append the outputs from `at` on until the batch is full, and close it, so that it is sent at once.

    Returns where the next batch begins; an output that is larger than a batch has one of its own.
    """
    while at < len(outputs):
        output = outputs[at]
        if batch.append(timestamp=None, key=output.key, value=output.value, headers=list(output.headers)) is None:
            break
        at += 1
    batch.close()
    return at


async def _settle(futures: Sequence[asyncio.Future[object]]) -> None:
    if futures:
        await asyncio.wait(futures)
