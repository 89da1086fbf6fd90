"""What the topics hold: records as Kafka has them, the events in their values, and their keys."""

import json
from typing import Literal, NamedTuple, Self

from streamer.errors import DecodeError
from taggen.reference import Reference
from taggen.tag import Model, Tag

_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps would make one at each call


class NotUnpacked(bytes):
    """The empty value of a record that stands for a batch which cannot be unpacked (streamer.unpack), and why."""

    error: DecodeError

    @classmethod
    def because(cls, error: DecodeError) -> Self:
        """For this reason."""
        value = cls()
        value.error = error
        return value


class Record(NamedTuple):
    """A Kafka record as it was read. `timestamp` in milliseconds since 1970, -1 for none; header values may be null."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    attempts: int = 0  # how often it was redriven, of a record of the retry topic


class Coordinates(NamedTuple):
    """Where a record stands in Kafka."""

    topic: str
    partition: int
    offset: int


class TagEvent(NamedTuple):
    """The tags of one listing event; `tagged_at` in milliseconds since 1970. Held by a test to product-tags.avsc."""

    event_id: str
    source_event_id: str
    source: Coordinates
    merchant_id: str
    product_id: str
    listing_version: int
    deleted: bool
    tags: tuple[Tag, ...]
    model: Model | None
    tagged_at: int
    flags: tuple[str, ...]


class DeadLetter(NamedTuple):
    """A record that could not become a tag event. Held by a test to product-tags-dlq.avsc."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    reason: str
    field: str | None
    merchant_id: str | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    truncated: bool
    value_length: int
    value_sha256: str | None
    failed_at: int
    attempts: int = 0  # how often it had been redriven
    expression: str | None = None  # the mapping's, for the field at fault


WorkerState = Literal["heartbeat", "verified", "refused", "retrying", "in_use"]


class AdapterStatus(NamedTuple):
    """What a worker says of itself (a heartbeat), or of the version that a record of the control topic named;
    `reported_at` in milliseconds since 1970. Held by a test to merchant-adapter-status.avsc."""

    worker: str
    base_fingerprint: str
    state: WorkerState
    control_offset: int
    merchant_id: str | None
    revision: int | None
    adapter: Reference | None
    reason: str | None
    detail: str | None
    reported_at: int


def route_key(merchant_id: str, base_fingerprint: str) -> bytes:
    """The key of a merchant's control records: UTF-8 JSON array, compact."""
    return _COMPACT.encode([merchant_id, base_fingerprint]).encode()


def tag_key(merchant_id: str, product_id: str) -> bytes:
    """The key of a product's tag events: UTF-8 JSON array, compact."""
    return _COMPACT.encode([merchant_id, product_id]).encode()
