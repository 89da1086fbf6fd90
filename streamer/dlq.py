"""Dead letters: find them, send them again, throw them away.

A redrive sends the original record to the retry topic, where the workers read it as the source record that it was. How
often a letter was redriven stands in it; which of the letters have been redriven is what the retry topic holds.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from streamer.codec import Codec
from streamer.connection import Lookup, partitions, start, stop, translated
from streamer.errors import BrokerError, DecodeError, InputError
from streamer.publish import MAX_IN_FLIGHT, MAX_REQUEST_BYTES, Publisher
from streamer.records import Coordinates, DeadLetter, Record
from streamer.retry import next_attempt, origin
from streamer.scan import Scanner, Span, Spans
from streamer.settings import KIB, Settings

OVERHEAD_BYTES = 8 * KIB  # of a request: headers and what Kafka puts around a record


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant: those that fit all that is given; times in milliseconds, `until_ms` exclusive."""

    reason: str | None = None
    merchant_id: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def __contains__(self, letter: DeadLetter) -> bool:
        return (
            self.reason in (None, letter.reason)
            and self.merchant_id in (None, letter.merchant_id)
            and (self.since_ms is None or letter.failed_at >= self.since_ms)
            and (self.until_ms is None or letter.failed_at < self.until_ms)
        )


class Filed(NamedTuple):
    """A letter, and the record of the topic of dead letters that holds it."""

    record: Record
    letter: DeadLetter

    @property
    def place(self) -> str:
        """As the commands name it."""
        return f"{self.record.partition}/{self.record.offset}"

    def as_json(self) -> dict[str, Any]:
        """All but the bytes of the listing, for `json.dumps`."""
        fields = self.letter._asdict()
        del fields["key"], fields["value"], fields["headers"]
        return {"place": self.place, **fields}


@dataclass
class Redriven:
    """What became of the letters that were meant."""

    sent: int = 0
    repeated: int = 0  # redriven before, or another letter of the same record
    exhausted: int = 0  # redriven as often as `redrive_limit` allows
    gone: int = 0  # truncated, and the source does not have the record any more
    too_large: int = 0  # for the retry topic


@dataclass
class Purged:
    """How many letters were thrown away, and how many that stand between them were written again to be kept."""

    purged: int = 0
    rewritten: int = 0


async def find(settings: Settings, wanted: Filter) -> AsyncIterator[Filed | Record]:
    """The letters that are meant, partition by partition, as of now, and the records that are no letters."""
    codec = Codec.from_settings(settings)
    assigned = await partitions(settings, [settings.dead_letter_topic])
    async with Scanner(settings) as scanner:
        beginnings, ends = await scanner.beginnings(assigned), await scanner.ends(assigned)
        if wanted.since_ms is not None:  # a record is written after its letter
            for partition, offset in (await scanner.at(assigned, wanted.since_ms)).items():
                beginnings[partition] = ends[partition] if offset is None else offset
        async for records in scanner.read({one: Span(beginnings[one], ends[one]) for one in assigned}):
            for record in records:
                filed = _filed(codec, record)
                if not isinstance(filed, Filed) or filed.letter in wanted:
                    yield filed


async def one(settings: Settings, place: str) -> tuple[Filed, Record | None]:
    """The letter at PARTITION/OFFSET and its original record, which is None when it was truncated and the source does
    not have it any more. Raises InputError when there is no letter."""
    partition, _, offset = place.partition("/")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise InputError(f"{place}: not PARTITION/OFFSET")
    topic = settings.dead_letter_topic
    if TopicPartition(topic, int(partition)) not in await partitions(settings, [topic]):
        raise InputError(f"{topic}/{place}: no such partition")
    async with Lookup(settings) as lookup:
        record = await lookup.find(Coordinates(topic, int(partition), int(offset)))
        filed = None if record is None else _filed(Codec.from_settings(settings), record)
        if not isinstance(filed, Filed):
            raise InputError(f"{topic}/{place}: no dead letter there")
        return filed, await _original(lookup, filed.letter, settings)


async def redrive(settings: Settings, wanted: Filter, *, dry_run: bool = False) -> Redriven:
    """Send the letters that are meant to the retry topic, each record once for each of its failures.

    Raises BrokerError; what was sent before is sent.
    """
    done = Redriven()
    attempts = await _attempts(settings)
    sending: deque[asyncio.Task[Coordinates]] = deque()
    async with Lookup(settings) as lookup, Publisher(settings, settings.retry_topic) as publisher:
        async for filed in find(settings, wanted):
            if not isinstance(filed, Filed):
                continue
            letter, again = filed.letter, next_attempt(filed.letter)
            if attempts.get(again.source, 0) >= again.attempt:
                done.repeated += 1
            elif again.attempt > settings.redrive_limit:
                done.exhausted += 1
            elif letter.value_length > MAX_REQUEST_BYTES - OVERHEAD_BYTES:
                done.too_large += 1
            elif (original := await _original(lookup, letter, settings)) is None:
                done.gone += 1
            else:
                attempts[again.source] = again.attempt
                done.sent += 1
                if not dry_run:
                    headers = (*original.headers, *again.headers())
                    sending.append(await publisher.send_raw(original.key, original.value, headers))
            if len(sending) >= MAX_IN_FLIGHT:
                await sending.popleft()
        await asyncio.gather(*sending)
    return done


async def purge(settings: Settings, wanted: Filter, *, dry_run: bool = False) -> Purged:
    """Throw the letters that are meant away, for good.

    Kafka deletes the beginning of a partition and nothing else, so letters to keep that stand between others are first
    written again, at its end: an end in between leaves them there twice. Raises BrokerError where the broker deletes
    no records.
    """
    plans: dict[TopicPartition, _Plan] = {}
    done = Purged()
    async for filed in find(settings, Filter()):
        record = filed.record if isinstance(filed, Filed) else filed
        plan = plans.setdefault(TopicPartition(record.topic, record.partition), _Plan(record.offset))
        if isinstance(filed, Filed) and filed.letter in wanted:
            done.purged += 1
            plan.purged_to = record.offset + 1
        elif plan.kept_from is None:
            plan.kept_from = record.offset
    plans = {partition: plan for partition, plan in plans.items() if plan.purged_to}
    if dry_run or not plans:
        return done
    # deletes nothing, but a broker that cannot says so now
    await _delete(settings, {partition: plan.oldest for partition, plan in plans.items()})
    done.rewritten = await _rewrite(settings, wanted, {one: Span(*plan.between) for one, plan in plans.items()})
    await _delete(settings, {partition: plan.purged_to for partition, plan in plans.items()})
    return done


@dataclass
class _Plan:
    """Of a partition: its oldest letter, the first that is kept, the offset behind the last that is purged."""

    oldest: int
    kept_from: int | None = None
    purged_to: int = 0

    @property
    def between(self) -> tuple[int, int]:
        """The offsets among which letters are kept and others purged."""
        return (self.purged_to if self.kept_from is None else self.kept_from), self.purged_to


async def _rewrite(settings: Settings, purged: Filter, spans: Spans) -> int:
    """Write the letters of the spans that are not purged again, as they are; returns how many."""
    codec = Codec.from_settings(settings)
    count = 0
    producer = AIOKafkaProducer(acks="all", max_request_size=MAX_REQUEST_BYTES, **settings.client_options())
    async with Scanner(settings) as scanner:
        with translated(settings):
            async with producer:
                async for records in scanner.read(spans):
                    kept = [one for one in records if not _meant(codec, one, purged)]
                    sent = [
                        await producer.send(
                            one.topic, one.value, one.key, one.partition, max(one.timestamp, 0), list(one.headers)
                        )
                        for one in kept
                    ]
                    await asyncio.gather(*sent)
                    count += len(kept)
    return count


def _meant(codec: Codec, record: Record, wanted: Filter) -> bool:
    filed = _filed(codec, record)
    return isinstance(filed, Filed) and filed.letter in wanted


async def _delete(settings: Settings, before: Mapping[TopicPartition, int]) -> None:
    """Have the broker delete the records below these offsets."""
    admin = AIOKafkaAdminClient(**settings.client_options())
    try:
        with translated(settings):
            await start(admin)
        await admin.delete_records({one: RecordsToDelete(before_offset=at) for one, at in before.items()})
    except (KafkaError, TimeoutError) as error:
        raise BrokerError(f"{settings.kafka_bootstrap}: deletes no records: {type(error).__name__}") from error
    finally:
        await stop(admin)


async def _attempts(settings: Settings) -> dict[Coordinates, int]:
    """How often each record has been redriven, as the retry topic tells."""
    attempts: dict[Coordinates, int] = {}
    assigned = await partitions(settings, [settings.retry_topic])
    async with Scanner(settings) as scanner:
        beginnings, ends = await scanner.beginnings(assigned), await scanner.ends(assigned)
        async for records in scanner.read({one: Span(beginnings[one], ends[one]) for one in assigned}):
            for found in filter(None, map(origin, records)):
                attempts[found.source] = max(found.attempt, attempts.get(found.source, 0))
    return attempts


async def _original(lookup: Lookup, letter: DeadLetter, settings: Settings) -> Record | None:
    """The record that a letter is about, with the headers that letters keep; from its source when it was truncated."""
    where = Coordinates(letter.topic, letter.partition, letter.offset)
    if not letter.truncated:
        return Record(*where, letter.timestamp, letter.key, letter.value, letter.headers)
    record = await lookup.find(where)
    if record is None or record.value is None:
        return None
    if hashlib.sha256(record.value).hexdigest() != letter.value_sha256:  # the topic was made anew
        return None
    kept = tuple(header for header in record.headers if header[0] in settings.dead_letter_headers)
    return record._replace(headers=kept)


def _filed(codec: Codec, record: Record) -> Filed | Record:
    try:
        return Filed(record, codec.decode_dead_letter(record.value or b""))
    except DecodeError:
        return record
