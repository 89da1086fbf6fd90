"""The attempts topic: what the workers of a group write down of the partitions they have, for whoever has them next.

A record per partition: key JSON [group, topic, partition], value a mark as a JSON object, null when the partition was
let go; and one with the key [group] and a null value, for whoever reads up to it. While all goes well nothing is
written but when partitions move. Nobody else reads it, so it has no schema.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streamer.delivery import Delivery, Note
from streamer.errors import BrokerError, Fenced, Stalled, StreamerError
from streamer.scan import Scanner, Span
from streamer.settings import Settings
from streamer.suspects import Care, E, Event, Found, Mark, Partition, Suspects
from taggen.errors import TaggenError

READ_BATCHES = 6  # so many have room between the intake and the broker, beside what is acknowledged and not committed
PROBE_WAIT_MS = 10  # what a broker may wait for news before it says where the topic ends
RETRY_S = 1.0
CLOSE_S = 2.0

log = structlog.get_logger(__name__)


class Attempts:
    """Marks the partitions of a worker, and tells how their rows are to be tried."""

    def __init__(self, settings: Settings, delivery: Delivery) -> None:
        self._settings = settings
        self._probing = settings.model_copy(update={"fetch_max_wait_ms": PROBE_WAIT_MS})
        self._delivery = delivery
        self._suspects = Suspects()

    async def take(self, partitions: Iterable[Partition]) -> None:
        """Mark partitions as this worker's, before their first row; those that it has already stay as they are.

        Raises BrokerError, after retries.
        """
        new = set(partitions) - self._suspects.partitions
        if not new:
            return
        found = await self._find(new)
        await self._write(self._suspects.take(new, found))
        if found:
            in_hand = {f"{topic}/{number}": mark[:2] for (topic, number), (mark, _) in found.items() if mark.in_hand}
            log.warning("worker_died", suspects=sum(one.suspects.size for one in found.values()), in_hand=in_hand)

    def groups(self, events: Sequence[E]) -> list[tuple[Care, list[E]]]:
        """As `Suspects.groups`."""
        return self._suspects.groups(events)

    async def begin(self, events: Iterable[Event]) -> None:
        """Mark these rows as all that is in hand; returns when the broker has it."""
        await self._write(self._suspects.begin(events))

    async def end(self) -> None:
        """They are finished."""
        await self._write(self._suspects.end())

    async def let_go(self) -> None:
        """Unmark all partitions: they are lost in order, or this worker ends and no row is to blame."""
        await self._write(self._suspects.let_go())

    async def close(self, error: BaseException | None = None) -> None:
        """Let go at the end of the worker, unless some row may be to blame for it (an exception that nobody raised on
        purpose, a model call that never ends), or the partitions are another's by now."""
        blameless = error is None or isinstance(error, StreamerError | TaggenError | KafkaError)
        if blameless and not isinstance(error, Stalled | Fenced):
            with suppress(BrokerError, TimeoutError):  # who takes care in vain loses a little time
                async with asyncio.timeout(CLOSE_S):
                    await self.let_go()

    async def revoked(self, *_: object, **__: object) -> None:
        """As `let_go`, for Faust's signal: all partitions are revoked at each rebalance, and nothing is in hand."""
        await self.let_go()

    async def _write(self, marks: Mapping[Partition, Mark | None]) -> None:
        notes = [
            Note(_key(self._settings.group_id, one), None if mark is None else json.dumps(mark._asdict()).encode())
            for one, mark in marks.items()
        ]
        if notes:
            await self._delivery.write(self._settings.attempts_topic, notes)

    async def _find(self, partitions: Iterable[Partition]) -> dict[Partition, Found]:
        """The marks of these partitions and what is suspect there, as of now."""
        deadline = time.monotonic() + self._settings.broker_retry_s
        while True:
            try:
                async with Scanner(self._probing) as scanner:
                    marks = await self._marks(scanner)
                    marked = {TopicPartition(*one): marks[one] for one in partitions if one in marks}
                    return await self._suspected(scanner, marked) if marked else {}
            except BrokerError as error:  # partitions move when brokers do
                if time.monotonic() > deadline:
                    raise
                log.warning("attempts_not_readable", topic=self._settings.attempts_topic, error=str(error))
            await asyncio.sleep(RETRY_S)

    async def _marks(self, scanner: Scanner) -> dict[Partition, Mark]:
        """The marks of the group."""
        marks: dict[Partition, Mark] = {}
        one = TopicPartition(self._settings.attempts_topic, 0)
        # up to a record of ours: there is something to fetch then, and no wait to see that there is nothing
        end = await self._delivery.write(self._settings.attempts_topic, [Note(_key(self._settings.group_id), None)])
        async for records in scanner.read({one: Span((await scanner.beginnings([one]))[one], end)}):
            for record in records:
                partition = _partition(self._settings.group_id, record.key)
                if partition is not None:
                    marks.pop(partition, None)
                    if record.value is not None:
                        marks[partition] = _mark(record.value)
        return marks

    async def _suspected(self, scanner: Scanner, marked: Mapping[TopicPartition, Mark]) -> dict[Partition, Found]:
        """What can have been in hand: from the committed offset on as much as a worker reads before it commits."""
        partitions = list(marked)
        ends, beginnings = await scanner.ends(partitions), await scanner.beginnings(partitions)
        # another: in a group, aiokafka does not like partitions to be assigned again and again
        async with Scanner(self._probing, self._settings.group_id) as of_group:
            committed = await of_group.committed(partitions)
        found: dict[Partition, Found] = {}
        for one, mark in marked.items():
            start = committed[one] or beginnings[one]
            end = max(mark.end, start + self._settings.commit_every + READ_BATCHES * self._settings.batch_listings)
            found[one.topic, one.partition] = Found(mark, Span(start, min(end, ends[one])))
        return found


def _key(group: str, partition: Partition | tuple[()] = ()) -> bytes:
    return json.dumps([group, *partition], ensure_ascii=False).encode()


def _partition(group: str, key: bytes | None) -> Partition | None:
    """The partition that a record is about, None when it is another group's, or nobody's."""
    try:
        owner, topic, partition = json.loads(key or b"")
    except (ValueError, TypeError):
        return None
    return (topic, partition) if owner == group else None


def _mark(value: bytes) -> Mark:
    """The mark in a record; of one that cannot be read, only that there is one."""
    try:
        return Mark(**json.loads(value))
    except (ValueError, TypeError):
        return Mark()
