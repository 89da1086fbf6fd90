"""The pipeline: records and a tagger in, tag events and dead letters out. It knows no broker and no clock of its own.

    Record ──prepare──> Job ──tag──> Tagged ──encode──> Output (tag event)
               ├──────> Deleted ───────────────────────> Output (deletion event)
               └──────> Rejected <─ model, size ───────> Output (dead letter)

Every record comes out as exactly one output, in the order of the records.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

from streamer.codec import Codec
from streamer.errors import DecodeError, StreamerError
from streamer.records import Coordinates, DeadLetter, Record, TagEvent, tag_key
from streamer.settings import Settings
from streamer.versions import Versions
from taggen.errors import DeviceError, NonFiniteScores
from taggen.listing import Listing
from taggen.tag import Model, Tagging

STALE, FALLBACK = "stale_version", "adapter_fallback"  # flags of tag events
MAX_DEAD_LETTER_KEY = 1024  # bytes; a larger record key is kept in the letter alone, if it fits
_EVENT_ID_CHARS = 32  # 128 bits of the SHA-256

T = TypeVar("T")


class Prepared(Protocol):
    """A listing that is ready for the model."""

    @property
    def tokens(self) -> int:
        """What it costs the device, padding included."""

    @property
    def filled(self) -> int:
        """Those of the tokens that are not padding."""


class Tagger(Protocol):
    """What the pipeline needs of `taggen.tagger.Tagger`; tests and benchmarks pass others."""

    @property
    def model(self) -> Model:
        """What serves."""

    def prepare(self, listings: Sequence[Listing]) -> Sequence[Any]:
        """Make listings ready: a Prepared for each."""

    def tag(self, prepared: Sequence[Any], slots: Sequence[Any] | None = None) -> Sequence[Tagging]:
        """The model call: a Tagging for each, in order, by the adapter in its slot; None: all by the default adapter.

        DeviceError is nobody's fault, any other exception is some listing's.
        """


class Served(NamedTuple):
    """What a listing is tagged by: a slot of the tagger, what events call it, and the flags that this adds."""

    slot: Any
    model: Model
    flags: tuple[str, ...] = ()


class Job(NamedTuple):
    """A readable listing, ready for the model. `served` None: by the default adapter, in a worker without others."""

    record: Record
    listing: Listing
    stale: bool
    prepared: Prepared
    served: Served | None = None

    @property
    def tokens(self) -> int:
        """Padded tokens of its model call."""
        return self.prepared.tokens


class Tagged(NamedTuple):
    """A listing with its tags, and what they are from."""

    record: Record
    listing: Listing
    stale: bool
    tagging: Tagging
    model: Model
    tokens: int = 0


class Deleted(NamedTuple):
    """A listing that is gone: needs no model."""

    record: Record
    listing: Listing
    stale: bool
    tokens: int = 0


class Rejected(NamedTuple):
    """A record that becomes a dead letter. `cause` is the type of the exception, for the log."""

    record: Record
    reason: str
    field: str | None
    merchant_id: str | None
    cause: str
    tokens: int = 0
    expression: str | None = None  # the mapping's, for the field


Entry = Job | Tagged | Deleted | Rejected
Outcome = Tagged | Deleted | Rejected


class Output(NamedTuple):
    """One record to write, and what it is the outcome of."""

    topic: str
    key: bytes | None
    value: bytes
    outcome: Outcome
    headers: tuple[tuple[str, bytes], ...] = ()


class Stage(NamedTuple):
    """When one stage was at work on a batch."""

    began: float  # seconds since 1970
    seconds: float


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


class Pipeline:
    """The three stages. `prepare` remembers listing versions and is called in the order of the records; `tag` is the
    model call and may run in another thread."""

    def __init__(
        self,
        settings: Settings,
        codec: Codec,
        tagger: Tagger,
        max_output_bytes: int | None = None,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._codec = codec
        self._tagger = tagger
        self._clock = clock
        self._tags_topic = settings.tags_topic
        self._dead_letter_topic = settings.dead_letter_topic
        self._headers = frozenset(settings.dead_letter_headers)
        self._max_bytes = max_output_bytes or settings.max_output_bytes
        self._versions = Versions(settings.remembered_versions)

    def process(self, records: Sequence[Record]) -> list[Output]:
        """All three stages at once."""
        return self.encode(self.tag(self.prepare(records)))

    def prepare(self, records: Sequence[Record]) -> list[Entry]:
        """Decode, and make the readable listings ready for the model.

        Raises RegistryUnavailable: not the records' fault.
        """
        read = [self._decode(record) for record in records]  # before any is remembered: it may have to be done again
        listed = [listing for listing in read if isinstance(listing, Listing) and not listing.deleted]
        prepared = iter(isolate(self._tagger.prepare, listed))
        entries: list[Entry] = []
        for record, listing in zip(records, read, strict=True):
            if isinstance(listing, Rejected):
                entries.append(listing)
                continue
            stale = self._versions.observe(listing.merchant_id, listing.product_id, listing.listing_version)
            if listing.deleted:
                entries.append(Deleted(record, listing, stale))
                continue
            ready = next(prepared)
            if isinstance(ready, Exception):
                entries.append(_refused_by_model(record, listing, ready))
            else:
                entries.append(Job(record, listing, stale, ready))
        return entries

    def _decode(self, record: Record) -> Listing | Rejected:
        try:
            return self._codec.decode_listing(record)
        except DecodeError as error:
            cause = type(error.__cause__ or error).__name__
            return Rejected(record, error.reason, error.field, error.merchant_id, cause, expression=error.expression)
        except (StreamerError, MemoryError):
            raise
        except Exception as error:  # whatever a decoder stumbles over is that record's fault
            return Rejected(record, "undecodable", None, None, type(error).__name__)

    def tag(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Run the model over the jobs among `entries`; the others pass.

        Raises DeviceError: nobody's listing is to blame.
        """
        jobs = [entry for entry in entries if isinstance(entry, Job)]
        taggings = iter(isolate(self._model_call, jobs))
        outcomes: list[Outcome] = []
        for entry in entries:
            if not isinstance(entry, Job):
                outcomes.append(entry)
                continue
            tagging = next(taggings)
            if isinstance(tagging, Exception):
                outcomes.append(_refused_by_model(entry.record, entry.listing, tagging))
                continue
            model = self._tagger.model
            if entry.served is not None:
                model = entry.served.model
                if entry.served.flags:
                    tagging = replace(tagging, flags=(*tagging.flags, *entry.served.flags))
            outcomes.append(Tagged(entry.record, entry.listing, entry.stale, tagging, model, entry.tokens))
        return outcomes

    def _model_call(self, jobs: Sequence[Job]) -> Sequence[Tagging]:
        prepared = [job.prepared for job in jobs]
        slots = [job.served.slot for job in jobs if job.served is not None]  # of all or of none
        return self._tagger.tag(prepared, slots) if slots else self._tagger.tag(prepared)

    def encode(self, outcomes: Sequence[Outcome]) -> list[Output]:
        """The records to write, each small enough for its topic."""
        now = self._clock()
        return [
            self._dead_letter(outcome, now) if isinstance(outcome, Rejected) else self._tag_event(outcome, now)
            for outcome in outcomes
        ]

    def _tag_event(self, outcome: Tagged | Deleted, now: int) -> Output:
        record, listing = outcome.record, outcome.listing
        source = Coordinates(record.topic, record.partition, record.offset)
        source_id = source_event_id(record, listing)
        if isinstance(outcome, Tagged):
            tagging, model = outcome.tagging, outcome.model
            tags, flags, served, fingerprint = tagging.tags, tagging.flags, model, model.fingerprint
        else:
            tags, flags, served, fingerprint = (), (), None, ""
        event = TagEvent(
            event_id=event_id(source_id, listing.digest(), fingerprint),
            source_event_id=source_id,
            source=source,
            merchant_id=listing.merchant_id,
            product_id=listing.product_id,
            listing_version=listing.listing_version,
            deleted=listing.deleted,
            tags=tags,
            model=served,
            tagged_at=now,
            flags=(*flags, STALE) if outcome.stale else flags,
        )
        try:
            key = tag_key(listing.merchant_id, listing.product_id)
            value = self._codec.encode_tags(event)
        except StreamerError:
            raise
        except Exception as error:
            refused = Rejected(record, "unencodable", None, listing.merchant_id, type(error).__name__)
            return self._dead_letter(refused, now)
        if len(key) + len(value) > self._max_bytes:
            refused = Rejected(record, "output_too_large", None, listing.merchant_id, "size")
            return self._dead_letter(refused, now)
        return Output(self._tags_topic, key, value, outcome)

    def _dead_letter(self, rejected: Rejected, now: int) -> Output:
        """The whole record in a dead letter, or as much of it as fits."""
        record = rejected.record
        value = record.value
        key = record.key if record.key is not None and len(record.key) <= MAX_DEAD_LETTER_KEY else None
        letter = DeadLetter(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            reason=rejected.reason,
            field=rejected.field,
            merchant_id=rejected.merchant_id,
            key=record.key,
            value=value,
            headers=tuple(header for header in record.headers if header[0] in self._headers),
            truncated=False,
            value_length=0 if value is None else len(value),
            value_sha256=None if value is None else hashlib.sha256(value).hexdigest(),
            failed_at=now,
            attempts=record.attempts,
            expression=rejected.expression,
        )
        whole = sum(len(part) for part in (key or b"", record.key or b"", value or b""))
        if whole < self._max_bytes:  # else not worth encoding
            encoded = self._codec.encode_dead_letter(letter)
            if len(encoded) + len(key or b"") <= self._max_bytes:
                return Output(self._dead_letter_topic, key, encoded, rejected)
        return Output(self._dead_letter_topic, key, self._truncated(letter, key), rejected)

    def _truncated(self, letter: DeadLetter, key: bytes | None) -> bytes:
        """The letter without headers and overlong key, with as much of the head of the value as fits."""
        bare = letter._replace(value=b"", key=key, headers=(), truncated=True)
        # An Avro length prefix is at most ten bytes long, and one of them is counted already.
        room = self._max_bytes - len(key or b"") - len(self._codec.encode_dead_letter(bare)) - 9
        head = None if letter.value is None else letter.value[: max(room, 0)]
        return self._codec.encode_dead_letter(bare._replace(value=head))


def source_event_id(record: Record, listing: Listing) -> str:
    """The id that the event has from its producer; without one, where it stands."""
    return listing.event_id or f"{record.topic}/{record.partition}/{record.offset}"


def event_id(source_event_id: str, listing_digest: str, fingerprint: str) -> str:
    """The id of an output: the same for every repeat of the same input through the same tagger."""
    # the digest has a fixed length and the fingerprint is hex, so no two triples share one text
    text = f"{listing_digest}/{fingerprint}/{source_event_id}"
    return hashlib.sha256(text.encode()).hexdigest()[:_EVENT_ID_CHARS]


def isolate(call: Callable[[list[Any]], Sequence[T]], items: list[Any]) -> list[T | Exception]:
    """Call with all items; when that fails, with halves of them, until each culprit stands alone.

    Returns a result or an exception for each item. DeviceError and MemoryError are nobody's fault and propagate.
    """
    if not items:
        return []
    try:
        results = call(items)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
        return list(results)
    except (DeviceError, MemoryError):
        raise
    except Exception as error:
        if len(items) == 1:
            return [error]
        half = len(items) // 2
        return isolate(call, items[:half]) + isolate(call, items[half:])


def condemned(record: Record) -> Rejected:
    """A record that workers have died of. It is not even decoded: that may be what it kills with."""
    return Rejected(record, "worker_died", None, None, "death")


def _refused_by_model(record: Record, listing: Listing, error: Exception) -> Rejected:
    reason = "non_finite_scores" if isinstance(error, NonFiniteScores) else "model_error"
    return Rejected(record, reason, None, listing.merchant_id, type(error).__name__)
