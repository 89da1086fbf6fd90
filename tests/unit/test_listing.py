from datetime import UTC, datetime
from typing import Any

import pytest

from taggen.errors import InvalidListing
from taggen.listing import (
    MAX_ATTRIBUTES,
    MAX_ID_CHARS,
    MAX_LABEL_CHARS,
    MAX_TEXT_CHARS,
    MAX_TITLE_CHARS,
    MAX_URLS,
    Listing,
)


def record(**changes: Any) -> dict[str, Any]:
    """A record that makes a listing, with some fields changed."""
    return {"merchant_id": "m", "product_id": "p", "listing_version": 3, "title": "Shoe", "event_time": 5} | changes


def test_a_record_becomes_a_listing() -> None:
    """Known fields are taken over, unknown ones ignored, missing ones have their defaults."""
    listing = Listing.from_record(record(attributes={"Colour": "Red"}, image_urls=["u"], locale="en", later="?"))
    assert listing == Listing("m", "p", 3, "Shoe", 5, attributes={"Colour": "Red"}, image_urls=("u",), locale="en")


@pytest.mark.parametrize(
    "time", [1_700_000_000_123, "2023-11-14T22:13:20.123Z", datetime(2023, 11, 14, 22, 13, 20, 123_000, UTC)]
)
def test_times_come_in_three_forms(time: Any) -> None:
    """Milliseconds, ISO 8601 and datetimes mean the same moment."""
    assert Listing.from_record(record(event_time=time)).event_time == 1_700_000_000_123


@pytest.mark.parametrize(
    ("changes", "field", "problem"),
    [
        ({"title": None}, "title", "missing"),
        ({"title": " \n"}, "title", "missing"),
        ({"title": 7}, "title", "not a string"),
        ({"title": "\ud800"}, "title", "not valid Unicode"),
        ({"title": "x" * (MAX_TITLE_CHARS + 1)}, "title", "too large"),
        ({"merchant_id": ""}, "merchant_id", "missing"),
        ({"product_id": "x" * (MAX_ID_CHARS + 1)}, "product_id", "too large"),
        ({"event_id": " "}, "event_id", "missing"),
        ({"listing_version": None}, "listing_version", "missing"),
        ({"listing_version": -1}, "listing_version", "not a non-negative integer"),
        ({"listing_version": True}, "listing_version", "not a non-negative integer"),
        ({"listing_version": 2**63}, "listing_version", "not a non-negative integer"),
        ({"event_time": None}, "event_time", "missing"),
        ({"event_time": "yesterday"}, "event_time", "not a time"),
        ({"event_time": "2023-11-14T22:13:20"}, "event_time", "without a time zone"),
        ({"event_time": 2**63}, "event_time", "not a time"),
        ({"description": ["x"]}, "description", "not a string"),
        ({"description": "x" * MAX_TEXT_CHARS}, "description", "too large"),  # with the title it is
        ({"category": "x" * (MAX_LABEL_CHARS + 1)}, "category", "too large"),
        ({"attributes": []}, "attributes", "not a map"),
        ({"attributes": {"a": 1}}, "attributes", "not a map of strings"),
        ({"attributes": {"\udfff": "x"}}, "attributes", "not valid Unicode"),
        ({"attributes": {str(n): "x" for n in range(MAX_ATTRIBUTES + 1)}}, "attributes", "too large"),
        ({"attributes": {"a": "x" * MAX_TEXT_CHARS}}, "attributes", "too large"),
        ({"image_urls": "u"}, "image_urls", "not an array of strings"),
        ({"image_urls": ["u"] * (MAX_URLS + 1)}, "image_urls", "too large"),
        ({"deleted": "yes"}, "deleted", "not a boolean"),
    ],
)
def test_a_broken_record_names_its_field(changes: dict[str, Any], field: str, problem: str) -> None:
    """What breaks the contract is refused with the field and the problem, and never a word of the listing."""
    with pytest.raises(InvalidListing) as caught:
        Listing.from_record(record(**changes))
    assert (caught.value.field, caught.value.problem) == (field, problem)
    assert str(caught.value) == f"{field}: {problem}"


def test_a_deleted_listing_needs_no_title() -> None:
    """A deletion says which listing it is about, and no more."""
    assert Listing.from_record(record(title=None, deleted=True)).deleted


def test_the_digest_is_of_the_content_alone() -> None:
    """The event's own id and time change nothing, the order of attributes neither; any other field does."""
    digest = Listing.from_record(record(attributes={"a": "1", "b": "2"})).digest()
    same = record(event_id="e", event_time=6, attributes={"b": "2", "a": "1"})
    assert Listing.from_record(same).digest() == digest
    changes: list[dict[str, Any]] = [
        {"merchant_id": "n"},
        {"product_id": "q"},
        {"listing_version": 4},
        {"title": "Shoes"},
        {"description": ""},
        {"category": "c"},
        {"locale": "en"},
        {"attributes": {"a": "2", "b": "1"}},
        {"image_urls": ["u"]},
        {"deleted": True},
    ]
    others = [Listing.from_record(record(attributes={"a": "1", "b": "2"}) | change).digest() for change in changes]
    assert len({digest, *others}) == len(changes) + 1
