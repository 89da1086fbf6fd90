"""Reading partitions from one offset to another: the way of verify, dlq and replay through a topic."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Self

from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from streamer.connection import POLL_MS, connect, consumer, record_of, stop, translated
from streamer.errors import BrokerError
from streamer.records import Record
from streamer.settings import Settings

POLL_RECORDS = 500


class Span(NamedTuple):
    """The offsets from `start` to before `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """How many offsets, records or not."""
        return max(0, self.end - self.start)


Spans = Mapping[TopicPartition, Span]


class Scanner:
    """Reads spans of partitions that are assigned by hand; an async context manager.

    What an aborted transaction wrote is left out, and offsets without a record are passed over: a span ends by
    position, since nobody delivers a transaction's marker. Raises BrokerError and BrokerUnavailable.
    """

    def __init__(self, settings: Settings, group_id: str | None = None) -> None:
        """With a group, `committed` and `commit` are about its offsets; it is not joined."""
        self._settings = settings
        self._consumer = consumer(settings, "none", group_id)

    async def __aenter__(self) -> Self:
        await connect(self._consumer, self._settings)
        return self

    async def __aexit__(self, *_: object) -> None:
        await stop(self._consumer)

    async def beginnings(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The oldest offset of each partition."""
        with translated(self._settings):
            return dict(await self._consumer.beginning_offsets(partitions))

    async def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset behind each partition's last committed record: nothing of a transaction that is still open.

        It is what a fetch says: asked for its end offsets, the embedded broker names the second record of the newest
        batch.
        """
        reader = self._consumer
        with translated(self._settings):
            reader.assign(list(partitions))
            await reader.seek_to_end()
            while any(reader.highwater(partition) is None for partition in partitions):
                await reader.getmany(timeout_ms=POLL_MS)
        ends = {}
        for partition in partitions:
            stable = reader.last_stable_offset(partition)  # None or -1 from brokers without transactions
            known = stable is not None and stable >= 0
            ends[partition] = stable if known else reader.highwater(partition)
        return ends

    async def at(self, partitions: Sequence[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int | None]:
        """The offset of each partition's first record that is not older; None where all are."""
        with translated(self._settings):
            found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, timestamp_ms))
        return {partition: None if one is None else one.offset for partition, one in found.items()}

    async def committed(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int | None]:
        """The group's offsets."""
        with translated(self._settings):
            return {partition: await self._consumer.committed(partition) for partition in partitions}

    async def commit(self, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
        """Set the group's offsets of assigned partitions, each with a note beside it."""
        if offsets:
            with translated(self._settings):
                await self._consumer.commit(dict(offsets))

    async def read(self, spans: Spans) -> AsyncIterator[list[Record]]:
        """The records of the spans, some of one partition at a time and those in order."""
        reader = self._consumer
        unread = {partition for partition, span in spans.items() if span.size}
        if not unread:
            return
        with translated(self._settings):
            reader.assign(list(unread))
            for partition in unread:
                reader.seek(partition, spans[partition].start)
        while unread:
            with translated(self._settings):
                try:
                    polled = await reader.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
                except OffsetOutOfRangeError as error:
                    lost = ", ".join(f"{one.topic}/{one.partition}/{at}" for one, at in error.args[0].items())
                    raise BrokerError(f"{lost}: not on the broker any more, retention was faster than we") from error
                positions = {partition: await reader.position(partition) for partition in unread}
            for partition, messages in polled.items():
                end = spans[partition].end
                records = [record_of(message) for message in messages if message.offset < end]
                if records:
                    yield records
            for partition, position in positions.items():
                if position >= spans[partition].end:
                    unread.discard(partition)
                    reader.pause(partition)
