"""Bytes to events and back.

    C3 01, fingerprint, Avro    Avro's single-object encoding: what we write without a registry
    00, schema id, Avro         the Confluent frame: what we write with one
    { ...                       JSON: accepted for listings

With a mapping, JSON and frames of other people's schemas are their events, which the mapping makes listings of.

Whoever writes to our topics decides what is in them: a decode method raises DecodeError for any bytes that are not an
event, and RegistryError when only the registry could tell.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

import schemas
from streamer.avro import FINGERPRINT_BYTES, SINGLE_OBJECT, Format, Writer, read_record
from streamer.errors import DecodeError
from streamer.mapping import EventMapping
from streamer.records import AdapterStatus, Coordinates, DeadLetter, NotUnpacked, Record, TagEvent
from streamer.registry import Registry
from streamer.routing import Canary, RouteChange
from streamer.settings import Settings, SubjectNaming
from streamer.subjects import subject_name
from taggen.errors import AdapterError, InvalidListing
from taggen.listing import MAX_ID_CHARS, Listing
from taggen.reference import Reference
from taggen.tag import Evidence, Model, Tag

CONFLUENT = b"\x00"  # begins the Confluent frame; the schema id follows
_FRAME = struct.Struct(">cI")
_MAX_SCHEMA_ID = 2**31 - 1
# tell fastavro the branch of a union, which it would search for
_MODEL, _REFERENCE, _CANARY = "stream.taggen.Model", "stream.taggen.AdapterReference", "stream.taggen.Canary"


class Codec:
    """Reads all three forms; writes the Confluent frame when there is a registry, else single objects.

    With a registry our schemas are registered at the first write, under the topic's subject.
    """

    def __init__(
        self,
        registry: Registry | None = None,
        tags_topic: str = "product-tags",
        dead_letter_topic: str = "product-tags-dlq",
        adapters_topic: str = "merchant-adapters",
        adapter_status_topic: str = "merchant-adapter-status",
        mapping: EventMapping | None = None,
        subject_naming: SubjectNaming = "topic",
    ) -> None:
        """`mapping`: makes listings of events that are not ours."""
        self._subject_naming = subject_naming
        self._registry = registry
        self._mapping = mapping
        self._tags_topic = tags_topic
        self._dead_letter_topic = dead_letter_topic
        self._adapters_topic = adapters_topic
        self._adapter_status_topic = adapter_status_topic
        self._formats = {name: Format(name) for name in schemas.NAMES}
        self._prefixes: dict[tuple[str, str], bytes] = {}  # by schema and topic
        self._writers: dict[tuple[str, int], Writer | None] = {}  # by schema and id; None: not one to read with

    @classmethod
    def from_settings(cls, settings: Settings) -> "Codec":
        """The codec of a process with these settings. Raises SettingsError for a registry's URL that is none, and for
        a mapping that cannot be used."""
        url = settings.schema_registry_url
        return cls(
            Registry(url) if url else None,
            settings.tags_topic,
            settings.dead_letter_topic,
            settings.adapters_topic,
            settings.adapter_status_topic,
            EventMapping.load(settings.mapping) if settings.mapping else None,
            settings.subject_naming,
        )

    def decode_listing(self, record: Record) -> Listing:
        """The listing in a record's value. Raises DecodeError and RegistryError."""
        value = record.value
        if value is None:
            raise DecodeError("null_value", "a key alone names no product")
        if isinstance(value, NotUnpacked):
            raise value.error
        if self._mapping is not None and not self._ours(value):
            return self._mapping.listing(self.decode_event(value), record.timestamp)
        content = self._read(schemas.LISTING, value) if _is_avro(value) else _json_object(value)
        try:
            return Listing.from_record(content)
        except InvalidListing as error:
            reason = "too_large" if error.problem == "too large" else "invalid_listing"
            raise DecodeError(reason, error.problem, error.field, _merchant_id(content)) from error

    def decode_event(self, value: bytes) -> dict[str, Any]:
        """Anybody's event, JSON or Avro, in the terms of its writer. Raises DecodeError and RegistryError."""
        if not _is_avro(value):
            return _json_object(value)
        start, writer = self._head(schemas.LISTING, value)
        return read_record(value, start, writer.schema)

    def _ours(self, value: bytes) -> bool:
        return _is_avro(value) and self._formats[schemas.LISTING].wrote(self._head(schemas.LISTING, value)[1])

    def decode_tags(self, value: bytes) -> TagEvent:
        """The tag event in a value. Raises DecodeError and RegistryError."""
        content = self._read(schemas.TAGS, value)
        model = content["model"]
        return TagEvent(
            **{
                **content,
                "source": Coordinates(**content["source"]),
                "tags": tuple(_tag(tag) for tag in content["tags"]),
                "model": None if model is None else Model(**model),
                "flags": tuple(content["flags"]),
            }
        )

    def decode_dead_letter(self, value: bytes) -> DeadLetter:
        """The dead letter in a value. Raises DecodeError and RegistryError."""
        content = self._read(schemas.DEAD_LETTER, value)
        headers = tuple((header["name"], header["value"]) for header in content["headers"])
        return DeadLetter(**{**content, "headers": headers})

    def decode_route_change(self, value: bytes) -> RouteChange:
        """The control record in a value. Raises DecodeError, for one that contradicts itself too, and RegistryError."""
        content = self._read(schemas.ADAPTER, value)
        canary = content["canary"]
        change = RouteChange(
            **{
                **content,
                "adapter": _reference(content["adapter"]),
                "canary": None if canary is None else Canary(**canary),
            }
        )
        if not 0 < len(change.merchant_id) <= MAX_ID_CHARS or change.revision < 1:
            raise DecodeError("invalid_record", "no merchant or no revision")
        if change.action == "assign" and change.adapter is None:
            raise DecodeError("invalid_record", "assigns no adapter", "adapter", change.merchant_id)
        if change.canary is not None and not 0 <= change.canary.share <= 1:
            raise DecodeError("invalid_record", "not within 0 to 1", "canary.share", change.merchant_id)
        return change

    def decode_adapter_status(self, value: bytes) -> AdapterStatus:
        """The worker's status in a value. Raises DecodeError and RegistryError."""
        content = self._read(schemas.ADAPTER_STATUS, value)
        return AdapterStatus(**{**content, "adapter": _reference(content["adapter"])})

    def encode_listing(self, listing: Listing, topic: str = "product-created") -> bytes:
        """A listing's value for `topic`. Raises RegistryError."""
        record = {
            "event_id": listing.event_id,
            "event_time": listing.event_time,
            "merchant_id": listing.merchant_id,
            "product_id": listing.product_id,
            "listing_version": listing.listing_version,
            "title": listing.title,
            "description": listing.description,
            "category": listing.category,
            "locale": listing.locale,
            "attributes": dict(listing.attributes),
            "image_urls": list(listing.image_urls),
            "deleted": listing.deleted,
        }
        return self._write(schemas.LISTING, topic, record)

    def encode_tags(self, event: TagEvent) -> bytes:
        """A tag event's value. Raises RegistryError."""
        record = event._asdict()
        record["source"] = event.source._asdict()
        record["tags"] = [_tag_record(tag) for tag in event.tags]
        if event.model is not None:
            record["model"] = (_MODEL, {name: getattr(event.model, name) for name in Model.__slots__})
        record["flags"] = list(event.flags)
        return self._write(schemas.TAGS, self._tags_topic, record)

    def encode_dead_letter(self, letter: DeadLetter) -> bytes:
        """A dead letter's value. Raises RegistryError."""
        record = letter._asdict()
        record["headers"] = [{"name": name, "value": value} for name, value in letter.headers]
        return self._write(schemas.DEAD_LETTER, self._dead_letter_topic, record)

    def encode_route_change(self, change: RouteChange) -> bytes:
        """A control record's value. Raises RegistryError."""
        record = change._asdict() | {"adapter": _reference_record(change.adapter)}
        if change.canary is not None:
            record["canary"] = (_CANARY, change.canary._asdict())
        return self._write(schemas.ADAPTER, self._adapters_topic, record)

    def encode_adapter_status(self, status: AdapterStatus) -> bytes:
        """A worker's status as a value. Raises RegistryError."""
        record = status._asdict() | {"adapter": _reference_record(status.adapter)}
        return self._write(schemas.ADAPTER_STATUS, self._adapter_status_topic, record)

    def look_up_ids(self) -> None:
        """Ask the registry for the ids of what a worker writes, so that it may be gone later. Raises RegistryError."""
        self.register(schemas.TAGS, self._tags_topic)
        self.register(schemas.DEAD_LETTER, self._dead_letter_topic)

    def register(self, name: str, topic: str) -> None:
        """Have the registry, if there is one, know a schema under a topic's subject. Raises RegistryError."""
        self._prefix(name, topic)

    def _write(self, name: str, topic: str, record: dict[str, Any]) -> bytes:
        return self._formats[name].write(self._prefix(name, topic), record)

    def _prefix(self, name: str, topic: str) -> bytes:
        prefix = self._prefixes.get((name, topic))
        if prefix is None:
            if self._registry is None:
                prefix = SINGLE_OBJECT + self._formats[name].fingerprint
            else:
                subject = subject_name(self._subject_naming, topic, name)
                prefix = _FRAME.pack(CONFLUENT, self._registry.register(subject, schemas.load(name)))
            self._prefixes[name, topic] = prefix
        return prefix

    def _read(self, name: str, value: bytes) -> dict[str, Any]:
        return self._formats[name].read(value, *self._head(name, value))

    def _head(self, name: str, value: bytes) -> tuple[int, Writer]:
        """Where the Avro body begins, and what wrote it."""
        if value[:2] == SINGLE_OBJECT:
            start = len(SINGLE_OBJECT) + FINGERPRINT_BYTES
            writer = self._formats[name].known(value[len(SINGLE_OBJECT) : start])
        elif value[:1] == CONFLUENT:
            start = _FRAME.size
            writer = self._writer(name, value)
        else:
            raise DecodeError("undecodable", "neither a single object nor a Confluent frame")
        if len(value) < start:
            raise DecodeError("undecodable", "cut off before the Avro body")
        if writer is None:
            raise DecodeError("unknown_schema", "its writer's schema is not known here")
        return start, writer

    def _writer(self, name: str, value: bytes) -> Writer | None:
        """The schema that a Confluent frame names, None for one that we cannot read with."""
        if self._registry is None or len(value) < _FRAME.size:
            return None
        schema_id = _FRAME.unpack_from(value)[1]
        if not 0 < schema_id <= _MAX_SCHEMA_ID:
            return None
        if (name, schema_id) in self._writers:
            return self._writers[name, schema_id]
        text = self._registry.schema(schema_id)
        if text is None:
            return None  # not remembered: it may be registered in a moment
        try:
            writer = self._formats[name].writer(json.loads(text))
        except (ValueError, RecursionError):
            writer = None
        self._writers[name, schema_id] = writer
        return writer


def _is_avro(value: bytes) -> bool:
    return value[:1] == CONFLUENT or value[:2] == SINGLE_OBJECT


def _tag_record(tag: Tag) -> dict[str, Any]:
    return {
        "name": tag.name,
        "value": tag.value,
        "normalized": tag.normalized,
        "confidence": tag.confidence,
        "kind": tag.kind,
        "evidence": [{"field": where.field, "start": where.start, "end": where.end} for where in tag.evidence],
    }


def _tag(content: Mapping[str, Any]) -> Tag:
    return Tag(**{**content, "evidence": tuple(Evidence(**where) for where in content["evidence"])})


def _reference_record(reference: Reference | None) -> Any:
    if reference is None:
        return None
    return _REFERENCE, {"name": reference.name, "version": reference.version, "digest": reference.digest}


def _reference(content: Mapping[str, str] | None) -> Reference | None:
    try:
        return None if content is None else Reference(**content)
    except AdapterError as error:
        raise DecodeError("invalid_record", str(error), "adapter") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("an object names a key twice")  # parsers differ in which one they take
    return content


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _json_object(value: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8, a byte order mark before it or not."""
    try:
        content = _JSON.decode(value.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DecodeError("undecodable", f"neither Avro nor JSON: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise DecodeError("undecodable", "JSON, but not an object")
    return content


def _merchant_id(content: Mapping[str, Any]) -> str | None:
    """Whose listing it is, where it says so in a form that can be written again."""
    merchant_id = content.get("merchant_id")
    if not isinstance(merchant_id, str) or not 0 < len(merchant_id) <= MAX_ID_CHARS:
        return None
    return merchant_id if merchant_id == merchant_id.encode("utf-8", "replace").decode() else None
