"""Follow the tag events: each decoded, with the listing that it tags and the time from one to the other."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NamedTuple, Self

from streamer.codec import Codec
from streamer.connection import Lookup, Reader
from streamer.errors import DecodeError
from streamer.records import Coordinates, Record, TagEvent
from streamer.settings import Settings
from taggen.listing import Listing
from taggen.tag import Evidence, Tag


class Sighting(NamedTuple):
    """A tag event as it was read. `listing` is None when its record is gone; `latency_ms` is the time between the two
    records' timestamps."""

    event: TagEvent
    listing: Listing | None
    latency_ms: int | None

    def words(self, tag: Tag) -> tuple[str, ...]:
        """The different words of the listing that carry a tag, cut from the original fields."""
        if self.listing is None:
            return ()
        return tuple(dict.fromkeys(cut(self.listing, evidence) for evidence in tag.evidence))

    def as_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`; each evidence with its words."""
        event, listing = self.event, self.listing
        return {
            **event._asdict(),
            "source": event.source._asdict(),
            "title": None if listing is None else listing.title,
            "tags": [
                asdict(tag)
                | {
                    "evidence": [
                        asdict(evidence) | {"words": None if listing is None else cut(listing, evidence)}
                        for evidence in tag.evidence
                    ]
                }
                for tag in event.tags
            ],
            "model": None if event.model is None else asdict(event.model),
            "latency_ms": self.latency_ms,
        }


class Unreadable(NamedTuple):
    """A record on the topic of tag events that is none, or not one that can be read here."""

    record: Coordinates
    reason: str

    def __str__(self) -> str:
        topic, partition, offset = self.record
        return f"{topic}/{partition}/{offset}: not a tag event that can be read: {self.reason}"


def cut(listing: Listing, evidence: Evidence) -> str:
    """The words of the original field that an evidence points at; empty when the listing has no such field."""
    if evidence.field.startswith("attributes."):
        text = listing.attributes.get(evidence.field.removeprefix("attributes."), "")
    else:
        text = (listing.title if evidence.field == "title" else listing.description) or ""
    return text[evidence.start : evidence.end]


class Spotter:
    """Makes sightings of records from the topic of tag events; an async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._codec = Codec.from_settings(settings)
        self._lookup = Lookup(settings)

    async def __aenter__(self) -> Self:
        await self._lookup.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._lookup.__aexit__()

    async def spot(self, record: Record) -> Sighting | Unreadable:
        """Decode a tag event and look its listing up. Raises RegistryUnavailable."""
        try:
            event = self._codec.decode_tags(record.value or b"")
        except DecodeError as error:
            return Unreadable(Coordinates(record.topic, record.partition, record.offset), error.reason)
        source = await self._lookup.find(event.source)
        if source is None:
            return Sighting(event, None, None)
        latency_ms = record.timestamp - source.timestamp if min(record.timestamp, source.timestamp) >= 0 else None
        try:
            return Sighting(event, self._codec.decode_listing(source), latency_ms)
        except DecodeError:  # the topic was made anew, and something else stands there
            return Sighting(event, None, None)


async def tail(
    settings: Settings,
    show: Callable[[Sighting], None],
    complain: Callable[[Unreadable], None],
    *,
    from_beginning: bool,
    limit: int | None = None,
) -> None:
    """Show the tag events of the topic, `limit` of them or without end. Raises BrokerError and RegistryUnavailable."""
    seen = 0
    async with (
        Spotter(settings) as spotter,
        Reader(settings, [settings.tags_topic], from_beginning=from_beginning) as reader,
    ):
        async for record in reader:
            sighting = await spotter.spot(record)
            if isinstance(sighting, Unreadable):
                complain(sighting)
                continue
            show(sighting)
            seen += 1
            if seen == limit:
                return
