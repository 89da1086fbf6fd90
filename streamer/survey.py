"""What a replay looks up before it begins: which records are meant, and what each product's tags were."""

from collections.abc import AsyncIterator
from pathlib import Path

from aiokafka import TopicPartition

from streamer.codec import Codec
from streamer.connection import partitions
from streamer.errors import DecodeError
from streamer.history import History
from streamer.plan import Plan, Selection
from streamer.records import Coordinates, Record
from streamer.scan import Scanner, Span, Spans
from streamer.settings import Settings
from taggen.listing import Listing


async def survey(settings: Settings, selection: Selection, plan: Plan, file: Path | None = None) -> History:
    """Read the spans of a plan, where only the newest versions are meant, and the topic of tag events as it was before
    the replay began. `file`: keep the history there. Raises BrokerError."""
    codec = Codec.from_settings(settings)
    history = History(file)
    try:
        if selection.newest:
            async for records in _scan(settings, plan.spans):
                for record in records:
                    listing = _listing(codec, record)
                    if listing is not None and listing in selection:
                        history.see_listing(listing, _place(record))
        async for records in _scan(settings, await _whole(settings, settings.tags_topic)):
            for record in records:
                try:
                    event = codec.decode_tags(record.value or b"")
                except DecodeError:
                    continue
                if event.tagged_at < plan.began_ms:
                    history.see_tags(event)
                    if selection.flag is not None:
                        history.see_flag(event, selection.flag)
    except BaseException:
        history.close()
        raise
    return history


def is_meant(record: Record, selection: Selection, codec: Codec, history: History) -> bool:
    """Whether a record is one of those that are to be tagged again."""
    if selection.flag is not None and not history.is_flagged(_place(record)):
        return False
    if not (selection.filters or selection.newest):
        return True
    listing = _listing(codec, record)
    if listing is None or listing not in selection:
        return False
    return not selection.newest or history.is_newest(listing, _place(record))


async def _whole(settings: Settings, topic: str) -> dict[TopicPartition, Span]:
    assigned = await partitions(settings, [topic])
    async with Scanner(settings) as scanner:
        beginnings, ends = await scanner.beginnings(assigned), await scanner.ends(assigned)
    return {one: Span(beginnings[one], ends[one]) for one in assigned}


async def _scan(settings: Settings, spans: Spans) -> AsyncIterator[list[Record]]:
    async with Scanner(settings) as scanner:
        async for records in scanner.read(spans):
            yield records


def _listing(codec: Codec, record: Record) -> Listing | None:
    try:
        return codec.decode_listing(record)
    except DecodeError:
        return None


def _place(record: Record) -> Coordinates:
    return Coordinates(record.topic, record.partition, record.offset)
