"""Avro's binary form: fingerprints, other versions of a schema, schemas that must not be read with."""

import copy
import json
from io import BytesIO
from typing import Any

import avro.schema
import fastavro
import pytest

import schemas
from streamer.avro import Format, fingerprint
from streamer.errors import DecodeError

NAMES = (schemas.LISTING, schemas.TAGS, schemas.DEAD_LETTER)
LISTING = {
    "event_id": None,
    "event_time": 1_764_000_000_000,
    "merchant_id": "m",
    "product_id": "p",
    "listing_version": 1,
    "title": "Boots",
    "description": None,
    "category": None,
    "locale": None,
    "attributes": {},
    "image_urls": [],
    "deleted": False,
}


def encoded(schema: Any, record: dict[str, Any]) -> bytes:
    """The record as another producer with this schema writes it."""
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), record)
    return stream.getvalue()


def listing_schema(*more: dict[str, Any]) -> dict[str, Any]:
    """The listing schema of a producer that is ahead of us by some fields."""
    schema = copy.deepcopy(schemas.load(schemas.LISTING))
    schema["fields"] += more
    return schema


@pytest.mark.parametrize(
    ("schema", "value"),
    [("null", 7195948357588979594), ("boolean", -6970731678124411036), ("int", 8247732601305521295)],
)
def test_fingerprint_is_the_specifications(schema: str, value: int) -> None:
    """The fingerprints in Avro's own test data, lowest byte first."""
    assert fingerprint(schema) == value.to_bytes(8, "little", signed=True)


@pytest.mark.parametrize("name", NAMES)
def test_fingerprint_agrees_with_apache_avro(name: str) -> None:
    """Apache's implementation comes to the same fingerprint for our schemas.

    Without logical types: it keeps the object around a type that had one, against the specification and Java.
    """
    text = json.dumps(schemas.load(name)).replace(', "logicalType": "timestamp-millis"', "")
    assert "logicalType" not in text
    assert fingerprint(schemas.load(name)) == avro.schema.parse(text).fingerprint("CRC-64-AVRO")


def test_docs_and_defaults_do_not_change_a_fingerprint() -> None:
    """Only what decides the bytes is in the fingerprint; a field more is."""
    schema = listing_schema()
    schema["doc"] = "another"
    schema["fields"][0]["doc"] = "another"
    assert Format(schemas.LISTING).writer(schema).current
    assert not Format(schemas.LISTING).writer(listing_schema({"name": "brand", "type": "string"})).current


def test_reads_an_older_and_a_newer_writer() -> None:
    """Fields that a writer does not have yet get their defaults, fields that only it has are dropped."""
    old = listing_schema()
    old["fields"] = [field for field in old["fields"] if field["name"] not in ("attributes", "deleted")]
    new = listing_schema({"name": "brand", "type": "string"}, {"name": "stock", "type": "int"})
    format_ = Format(schemas.LISTING)
    assert format_.read(encoded(old, LISTING), 0, format_.writer(old)) == LISTING
    assert format_.read(encoded(new, {**LISTING, "brand": "X", "stock": 3}), 0, format_.writer(new)) == LISTING


def test_notices_an_end_inside_a_field_of_the_writer_alone() -> None:
    """fastavro skips unknown fields without a look at their length; a cut there must not pass."""
    new = listing_schema({"name": "weight", "type": "double"}, {"name": "brand", "type": "string"})
    format_ = Format(schemas.LISTING)
    value = encoded(new, {**LISTING, "weight": 1.5, "brand": "a brand"})
    for cut in range(1, 16):
        with pytest.raises(DecodeError, match="undecodable"):
            format_.read(value[:-cut], 0, format_.writer(new))


def test_refuses_a_writer_that_does_not_fit() -> None:
    """A record of another name, or without what we need, is undecodable."""
    format_ = Format(schemas.LISTING)
    other = {**listing_schema(), "name": "Order"}
    short = listing_schema()
    short["fields"] = [field for field in short["fields"] if field["name"] != "title"]
    for schema in (other, short):
        with pytest.raises(DecodeError, match="undecodable: Avro: SchemaResolutionError"):
            format_.read(encoded(schema, LISTING), 0, format_.writer(schema))
    with pytest.raises(DecodeError, match="undecodable"):
        format_.read(encoded("string", "text"), 0, format_.writer("string"))


def nested(depth: int) -> Any:
    """`depth` arrays in one another."""
    schema: Any = "string"
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(depth: int) -> Any:
    """A record of 2 ** depth empty records: no byte, endless values."""
    schema: dict[str, Any] = {"type": "record", "name": "R0", "fields": []}
    for level in range(1, depth):
        twice = [{"name": "a", "type": schema}, {"name": "b", "type": f"R{level - 1}"}]
        schema = {"type": "record", "name": f"R{level}", "fields": twice}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(listing_schema({"name": "parent", "type": ["null", "ProductListing"]}), id="recursive"),
        pytest.param(listing_schema({"name": "x", "type": {"type": "array", "items": "null"}}), id="array of nulls"),
        pytest.param({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}, id="array of nothing"),
        pytest.param({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}, id="array of no bytes"),
        pytest.param(doubling(40), id="doubling"),
        pytest.param(nested(3_000), id="deep"),
        pytest.param(listing_schema({"name": "x", "type": "Elsewhere"}), id="reference"),
        pytest.param({"type": "record"}, id="not a schema"),
        pytest.param(None, id="null"),
        pytest.param(7, id="number"),
    ],
)
def test_refuses_a_schema_that_is_none_or_has_no_bounds(schema: Any) -> None:
    """With a recursive schema fastavro recurses as deep as the bytes say and takes the process down: never used."""
    with pytest.raises(ValueError, match="not a usable Avro schema"):
        Format(schemas.LISTING).writer(schema)
