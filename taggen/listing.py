"""The listing: what a merchant publishes, and all that the tagger sees of an event."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from taggen.errors import InvalidListing

MAX_ID_CHARS = 256  # ids travel in keys, logs and metrics
MAX_TITLE_CHARS = 4_096
MAX_TEXT_CHARS = 262_144  # all text of one listing; a window of 128 tokens reads some 500 characters
MAX_ATTRIBUTES = 256
MAX_LABEL_CHARS = 1_024  # category and locale, each
MAX_URLS = 256
MAX_URL_CHARS = 8_192

_CANONICAL = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # json.dumps would make one at each call


@dataclass(frozen=True, slots=True)
class Listing:
    """The whole state of one listing, held by a test to schemas/product-listing.avsc."""

    merchant_id: str
    product_id: str
    listing_version: int
    title: str
    event_time: int = 0  # milliseconds since 1970, UTC
    event_id: str | None = None
    description: str | None = None
    category: str | None = None
    locale: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    image_urls: tuple[str, ...] = ()
    deleted: bool = False

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Listing":
        """Check a decoded Avro or JSON record and make a listing of it.

        `event_time` may be milliseconds, an ISO 8601 string with a zone, or a datetime. Unknown fields are ignored
        (a producer may be ahead of us). Raises InvalidListing naming the first field at fault.
        """
        if not isinstance(record, Mapping):
            raise InvalidListing("record", "not an object")
        deleted = record.get("deleted", False)
        if not isinstance(deleted, bool):
            raise InvalidListing("deleted", "not a boolean")
        version = record.get("listing_version")
        if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version < 2**63:
            raise InvalidListing("listing_version", "missing" if version is None else "not a non-negative integer")
        listing = cls(
            merchant_id=_identifier(record, "merchant_id"),
            product_id=_identifier(record, "product_id"),
            listing_version=version,
            title=_text(record, "title") or "",
            event_time=_milliseconds(record.get("event_time")),
            event_id=_identifier(record, "event_id") if record.get("event_id") is not None else None,
            description=_text(record, "description"),
            category=_text(record, "category"),
            locale=_text(record, "locale"),
            attributes=_attributes(record.get("attributes")),
            image_urls=_urls(record.get("image_urls")),
            deleted=deleted,
        )
        listing._check_sizes()
        return listing

    def _check_sizes(self) -> None:
        if not self.deleted and not self.title.strip():
            raise InvalidListing("title", "missing")
        if len(self.title) > MAX_TITLE_CHARS:
            raise InvalidListing("title", "too large")
        for name in ("category", "locale"):
            if len(getattr(self, name) or "") > MAX_LABEL_CHARS:
                raise InvalidListing(name, "too large")
        if len(self.image_urls) > MAX_URLS or any(len(url) > MAX_URL_CHARS for url in self.image_urls):
            raise InvalidListing("image_urls", "too large")
        if len(self.attributes) > MAX_ATTRIBUTES:
            raise InvalidListing("attributes", "too large")
        attributes = sum(len(key) + len(value) for key, value in self.attributes.items())
        if attributes > MAX_TEXT_CHARS:
            raise InvalidListing("attributes", "too large")
        if len(self.title) + len(self.description or "") + attributes > MAX_TEXT_CHARS:
            raise InvalidListing("description", "too large")

    def digest(self) -> str:
        """SHA-256 (hex) of the listing's content: everything but the event's own id and time."""
        content = [
            self.merchant_id,
            self.product_id,
            self.listing_version,
            self.title,
            self.description,
            self.category,
            self.locale,
            sorted(self.attributes.items()),
            self.image_urls,
            self.deleted,
        ]
        return hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()


def _text(record: Mapping[str, Any], name: str) -> str | None:
    value = record.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidListing(name, "not a string")
    return None if value is None else _unicode(value, name)


def _unicode(value: str, name: str) -> str:
    # JSON can smuggle lone surrogates in ("\\ud800"); neither UTF-8 nor a tokenizer takes them.
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidListing(name, "not valid Unicode") from None
    return value


def _identifier(record: Mapping[str, Any], name: str) -> str:
    value = _text(record, name)
    if value is None or not value.strip():
        raise InvalidListing(name, "missing")
    if len(value) > MAX_ID_CHARS:
        raise InvalidListing(name, "too large")
    return value


def _milliseconds(value: Any) -> int:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise InvalidListing("event_time", "not a time") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidListing("event_time", "without a time zone")
        return round((value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)
    if value is None:
        raise InvalidListing("event_time", "missing")
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise InvalidListing("event_time", "not a time")
    return value


def _attributes(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidListing("attributes", "not a map")
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise InvalidListing("attributes", "not a map of strings")
        _unicode(key, "attributes")
        _unicode(text, "attributes")
    return dict(value)


def _urls(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(url, str) for url in value):
        raise InvalidListing("image_urls", "not an array of strings")
    return tuple(_unicode(url, "image_urls") for url in value)
