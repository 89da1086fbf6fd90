"""The owner of one partition: copies what is newest of each product from the tag events to the compacted topic.

    fence    a producer under the partition's transactional id: the owner before can write no more
    load     the partition of the compacted topic, to its end: what is newest so far
    follow   tag events from the group's offset on; in one transaction those that are newer, and the new offset

The transactional id fences the offsets too: aiokafka sends no group generation with them. An offset that the owner
before committed and this one did not see yet costs a second look at events that are no news then.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    OffsetOutOfRangeError,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
    UnknownError,
    UnsupportedVersionError,
)
from aiokafka.partitioner import DefaultPartitioner

from streamer.codec import Codec
from streamer.connection import POLL_MS, connect, consumer, record_of, start, stop, translated
from streamer.delivery import MAX_BATCH_BYTES, STOP_S
from streamer.errors import (
    AccessDenied,
    BrokerError,
    BrokerUnavailable,
    DecodeError,
    DeliveryError,
    Fenced,
    OffsetLost,
    StreamerError,
)
from streamer.newest import Newest, Rank, product_of, rank
from streamer.records import Record, tag_key
from streamer.scan import Scanner, Span
from streamer.settings import Settings

RANK = "rank"  # header of the records: a takeover reads ranks, not Avro, which takes several times as long
BATCH_RECORDS = 1_000  # of tag events that one transaction takes
PAUSE_S = 0.1  # after a transaction that took fewer: a partition has at most ten a second

_PARTITIONER = DefaultPartitioner()

Ranked = tuple[Record, tuple[bytes, Rank]]  # a tag event, its product and rank

log = structlog.get_logger(__name__)


@dataclass
class Progress:
    """What the owners of a process have done: tag events read, and those of them that were written."""

    read: int = 0
    written: int = 0


class Owner:
    """One partition in this process's hands. `run` it in a task; cancel that to give it up, with `turn` in hand."""

    def __init__(
        self, settings: Settings, codec: Codec, latest: str, partition: int, of: int, progress: Progress
    ) -> None:
        """`latest`: the topic to write, and the group; `of`: how many partitions both topics have."""
        self._settings = settings
        self._codec = codec
        self._group = latest
        self._source = TopicPartition(settings.tags_topic, partition)
        self._latest = TopicPartition(latest, partition)
        self._partitions = list(range(of))
        self._newest = Newest()
        self.turn = asyncio.Lock()  # held while a transaction is under way
        self._progress = progress

    async def run(self) -> None:
        """Never returns. Raises BrokerError, Fenced, OffsetLost, RegistryError and DecodeError."""
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            stack.enter_context(self._newest)
            producer = await self._fence(stack)
            position = await self._load()
            log.info(
                "taken_over",
                partition=self._source.partition,
                products=len(self._newest),
                offset=position,
                seconds=round(time.monotonic() - began, 2),
            )
            async for records, after in self._follow(stack, position):
                async with self.turn:
                    await self._write(producer, records, after)
                if len(records) < BATCH_RECORDS:
                    await asyncio.sleep(PAUSE_S)

    async def _fence(self, stack: AsyncExitStack) -> AIOKafkaProducer:
        """A producer that has the transactional id to itself; what the one before had begun is aborted by now."""
        settings = self._settings
        name = f"{self._latest.topic}-{self._latest.partition}"
        producer = AIOKafkaProducer(
            transactional_id=name,
            transaction_timeout_ms=int(settings.broker_retry_s * 1000),
            request_timeout_ms=int(settings.broker_retry_s * 1000),
            max_batch_size=min(MAX_BATCH_BYTES, settings.max_output_bytes),
            **settings.client_options(),
        )

        async def leave() -> None:  # what is pending after a failure is not waited for
            await asyncio.wait({asyncio.create_task(producer.stop())}, timeout=STOP_S)

        stack.push_async_callback(leave)
        where = settings.kafka_bootstrap
        try:
            async with asyncio.timeout(settings.broker_retry_s):
                await start(producer)
        except TransactionalIdAuthorizationFailed as error:
            raise AccessDenied(f"{where}: the transactional id {name} is not for this user") from error
        except (UnknownError, UnsupportedVersionError, IncompatibleBrokerVersion) as error:
            raise BrokerError(
                f"{where}: this broker has no transactions ({type(error).__name__}), and {self._latest.topic} is "
                "written by them alone; the embedded broker has none: use Apache Kafka"
            ) from error
        except (KafkaConnectionError, TimeoutError) as error:
            raise BrokerUnavailable(f"{where}: {type(error).__name__} on asking for a producer id") from error
        except KafkaError as error:
            raise BrokerError(f"{where}: no producer id for {name}: {type(error).__name__}") from error
        return producer

    async def _load(self) -> int:
        """Read what is there; returns the offset of the first tag event to take."""
        async with Scanner(self._settings, self._group) as scanner:
            beginnings = await scanner.beginnings([self._source, self._latest])
            ends = await scanner.ends([self._latest])
            committed = (await scanner.committed([self._source]))[self._source]
            async for records in scanner.read({self._latest: Span(beginnings[self._latest], ends[self._latest])}):
                self._newest.remember(_known(record) for record in records)
        beginning = beginnings[self._source]
        if committed is not None and committed < beginning:
            raise OffsetLost(self._source.topic, self._source.partition, committed, beginning)
        return beginning if committed is None else committed

    async def _follow(self, stack: AsyncExitStack, position: int) -> AsyncIterator[tuple[list[Record], int]]:
        """Tag events in their order, and the offset behind them."""
        reader = consumer(self._settings, "none")
        stack.push_async_callback(stop, reader)
        await connect(reader, self._settings)
        reader.assign([self._source])
        reader.seek(self._source, position)
        while True:
            with translated(self._settings):
                try:
                    polled = await reader.getmany(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
                except OffsetOutOfRangeError as error:
                    beginning = (await reader.beginning_offsets([self._source]))[self._source]
                    raise OffsetLost(self._source.topic, self._source.partition, position, beginning) from error
                after = await reader.position(self._source)
            if after != position:
                yield [record_of(message) for message in polled.get(self._source, ())], after
                position = after

    async def _write(self, producer: AIOKafkaProducer, records: Sequence[Record], after: int) -> None:
        """One transaction: the records that are news, and the offset behind all of them."""
        decoded = self._decoded(records)
        chosen = [decoded[index] for index in self._newest.choose([ranked for _, ranked in decoded])]
        try:
            async with asyncio.timeout(self._settings.broker_retry_s):
                await producer.begin_transaction()
                await self._send(producer, chosen)
                await producer.send_offsets_to_transaction({self._source: after}, self._group)
                await producer.commit_transaction()
        except ProducerFenced as error:
            raise Fenced(
                f"{self._latest.topic}/{self._latest.partition}: another process owns it now; nothing was written"
            ) from error
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"{self._latest.topic}/{self._latest.partition}: a transaction took longer than "
                f"{self._settings.broker_retry_s:g} s"
            ) from error
        except KafkaError as error:
            raise DeliveryError(
                f"{self._latest.topic}/{self._latest.partition}: a transaction failed: {type(error).__name__}"
            ) from error
        self._newest.remember(ranked for _, ranked in chosen)
        self._progress.read += len(records)
        self._progress.written += len(chosen)

    async def _send(self, producer: AIOKafkaProducer, records: Sequence[Ranked]) -> None:
        """Write the records, and wait: a commit would go through without a batch that was refused."""
        sent = []
        at = 0
        while at < len(records):
            batch = producer.create_batch()
            while at < len(records):
                one, (_, its_rank) = records[at]
                headers = [*one.headers, (RANK, its_rank.to_bytes())]
                if batch.append(timestamp=None, key=one.key, value=one.value, headers=headers) is None:
                    break
                at += 1
            batch.close()
            sent.append(await producer.send_batch(batch, self._latest.topic, partition=self._latest.partition))
        if sent:
            await asyncio.wait(sent)
        for failure in [future.exception() for future in sent]:
            if failure is not None:
                raise failure

    def _decoded(self, records: Sequence[Record]) -> list[Ranked]:
        """The tag events among the records; what is none is passed over, but for one whose schema is not known here."""
        decoded = []
        for record in records:
            try:
                event = self._codec.decode_tags(record.value or b"")
            except DecodeError as error:
                if error.reason == "unknown_schema":
                    raise DecodeError(
                        error.reason, f"{_place(record)}: written by a newer release? upgrade this one"
                    ) from error
                log.warning("not_a_tag_event", record=_place(record), reason=error.reason)
                continue
            key = tag_key(event.merchant_id, event.product_id)
            if record.key != key or _PARTITIONER(key, self._partitions, self._partitions) != record.partition:
                raise StreamerError(
                    f"{_place(record)}: not where its product belongs; partitions were added, or others write there: "
                    f"{self._latest.topic} needs a topic of tag events whose keys never moved"
                )
            decoded.append((record, (product_of(key), rank(event))))
        return decoded


def _known(record: Record) -> tuple[bytes, Rank]:
    """Product and rank of a record of the compacted topic. Raises StreamerError."""
    try:
        return product_of(record.key or b""), Rank.from_bytes(dict(record.headers).get(RANK))
    except ValueError as error:
        raise StreamerError(f"{_place(record)}: has no rank; somebody else writes to this topic") from error


def _place(record: Record) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"
