"""The control topic as a worker reads it: all of it, before the first event, and on from there.

It is read outside any consumer group, so that every worker follows the same records in the same order. A record that
cannot be read is passed over by all of them.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from streamer.codec import Codec
from streamer.connection import partitions, start, stop, translated
from streamer.errors import BrokerError, DecodeError, RegistryError
from streamer.routing import RouteChange
from streamer.settings import MIB, Settings

POLL_MS = 200
CHUNK_RECORDS = 5_000  # decoded at a time, in a thread: the event loop gets its turns in between
FETCH_BYTES = 4 * MIB
PROBE_WAIT_MS = 10  # what a broker may wait for news before it says where the log ends
RETRY_S = 1.0

log = structlog.get_logger(__name__)


class Control:
    """Hands each record of the control topic to `follow`, in order, with its timestamp in milliseconds."""

    def __init__(self, settings: Settings, codec: Codec, follow: Callable[[RouteChange, int], None]) -> None:
        self.next_offset = 0  # all before it is followed
        self._settings = settings
        self._codec = codec
        self._follow = follow
        self._partition = TopicPartition(settings.adapters_topic, 0)
        self._consumer: AIOKafkaConsumer | None = None
        self._moved = asyncio.Event()

    async def start(self) -> None:
        """Connect and follow all that is there now. Raises TopicMissing, BrokerError or RegistryError."""
        settings = self._settings
        found = await partitions(settings, [settings.adapters_topic])
        if len(found) != 1:
            raise BrokerError(
                f"{settings.adapters_topic}: has {len(found)} partitions; who is served by what needs one order, so one"
            )
        consumer = self._new_consumer(settings.fetch_max_wait_ms)
        self._consumer = consumer
        with translated(settings):
            await start(consumer)
            consumer.assign([self._partition])
            await consumer.seek_to_beginning(self._partition)
            while (end := consumer.highwater(self._partition)) is None or self.next_offset < end:
                await self._take(consumer)

    async def run(self) -> None:
        """Follow what comes, without end.

        A topic that is gone, or was made anew with fewer records, stops nobody: what is known goes on serving, and the
        log says so again and again. A worker that starts reads what there is.
        """
        while True:
            if self._consumer is None:
                raise BrokerError(f"{self._settings.adapters_topic}: not started")
            try:
                await self._take(self._consumer)
            except KafkaError as error:
                self._complain(error)
                await asyncio.sleep(RETRY_S)

    async def up_to_date(self) -> None:
        """Return when all records are followed that the topic holds now; at once when there is no such topic now."""
        end = await self._end()
        while self.next_offset < end:
            self._moved.clear()
            await self._moved.wait()

    async def stop(self) -> None:
        """Disconnect."""
        if self._consumer is not None:
            await stop(self._consumer)

    async def _take(self, consumer: AIOKafkaConsumer) -> None:
        """Follow what one poll gives."""
        polled = await consumer.getmany(self._partition, timeout_ms=POLL_MS)
        messages = polled.get(self._partition, ())
        for first in range(0, len(messages), CHUNK_RECORDS):
            chunk = messages[first : first + CHUNK_RECORDS]
            for message, change in zip(chunk, await self._decoded(chunk), strict=True):
                if change is not None:
                    self._follow(change, message.timestamp)
        self.next_offset = await consumer.position(self._partition)
        self._moved.set()

    async def _decoded(self, messages: Sequence[Any]) -> list[RouteChange | None]:
        while True:
            try:
                return await asyncio.to_thread(self._decode, messages)
            except RegistryError as error:  # only it can tell what the records are; what serves goes on serving
                self._complain(error)
                await asyncio.sleep(RETRY_S)

    def _decode(self, messages: Sequence[Any]) -> list[RouteChange | None]:
        changes: list[RouteChange | None] = []
        for message in messages:
            try:
                changes.append(self._codec.decode_route_change(message.value or b""))
            except RegistryError:
                raise
            except Exception as error:  # whatever a decoder stumbles over is that record's fault
                reason = error.reason if isinstance(error, DecodeError) else "undecodable"
                topic, number, offset = message.topic, message.partition, message.offset
                log.warning("control_record_skipped", topic=topic, partition=number, offset=offset, reason=reason)
                changes.append(None)
        return changes

    async def _end(self) -> int:
        """Where the topic ends now: what the answer to a fetch says that begins after this call.

        The fetches that follow the topic began before, and the end offset that a broker tells may be too low.
        """
        while True:
            probe = self._new_consumer(PROBE_WAIT_MS)
            try:
                await start(probe)
                probe.assign([self._partition])
                probe.seek(self._partition, self.next_offset)
                while (end := probe.highwater(self._partition)) is None:
                    polled = await probe.getmany(self._partition, timeout_ms=POLL_MS, max_records=1)
                    if not polled and self._partition.topic not in await probe.topics():
                        log.error("control_topic_missing", topic=self._partition.topic)
                        return 0
            except OffsetOutOfRangeError:  # made anew; `run` complains
                return 0
            except KafkaError as error:  # the worker's watchdog knows when it is too long
                self._complain(error)
                await asyncio.sleep(RETRY_S)
            else:
                return int(end)
            finally:
                await stop(probe)

    def _complain(self, error: Exception) -> None:
        topic, offset = self._partition.topic, self.next_offset
        log.error("control_not_readable", topic=topic, offset=offset, error=type(error).__name__)

    def _new_consumer(self, wait_ms: int) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            auto_offset_reset="none",
            enable_auto_commit=False,
            fetch_max_wait_ms=wait_ms,
            max_partition_fetch_bytes=FETCH_BYTES,
            **self._settings.client_options(),
        )
