"""The contract: our types have the schemas' fields, and every released version stays readable."""

import copy
import json
import types
import typing
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import avro.schema
import fastavro
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from hypothesis import given
from hypothesis import strategies as st

import schemas
from streamer.avro import Format
from streamer.codec import Codec
from streamer.records import AdapterStatus, Coordinates, DeadLetter, Record, TagEvent
from streamer.routing import RouteChange
from taggen.listing import Listing
from taggen.tag import Evidence, Model, Tag

NAMES = schemas.NAMES
INPUTS = {schemas.LISTING}  # others write them: backward. The rest others read while we write: full
RELEASES = [(name, version) for name in NAMES for version in schemas.released(name)]


def types_of(holder: type) -> dict[str, Any]:
    """The field types of one of our types, as Avro would say them."""
    return {name: avro_type(hint) for name, hint in typing.get_type_hints(holder).items()}


def avro_type(hint: Any) -> Any:  # noqa: PLR0911 one return a type
    """A type hint as Avro's JSON; `long` for every integer, `float` for every floating point number."""
    primitives = {str: "string", int: "long", float: "float", bool: "boolean", bytes: "bytes", type(None): "null"}
    if hint in primitives:
        return primitives[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return sorted((avro_type(argument) for argument in arguments), key=lambda part: part != "null")
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"array": avro_type(arguments[0])}
    if origin is tuple:  # of a header
        return dict(zip(("name", "value"), map(avro_type, arguments), strict=True))
    if origin is Mapping:
        return {"map": avro_type(arguments[1])}
    return types_of(hint)


def simplified(schema: Any) -> Any:  # noqa: PLR0911 one return a type
    """A schema in the terms of `avro_type`."""
    if isinstance(schema, list):
        return [simplified(branch) for branch in schema]
    if isinstance(schema, str):
        return {"int": "long", "double": "float"}.get(schema, schema)
    match schema["type"]:
        case "record":
            return {field["name"]: simplified(field["type"]) for field in schema["fields"]}
        case "array":
            return {"array": simplified(schema["items"])}
        case "map":
            return {"map": simplified(schema["values"])}
        case "enum":
            return {"enum": schema["symbols"]}
        case primitive:
            return simplified(primitive)


@pytest.mark.parametrize(
    ("name", "holder"),
    [
        (schemas.LISTING, Listing),
        (schemas.TAGS, TagEvent),
        (schemas.DEAD_LETTER, DeadLetter),
        (schemas.ADAPTER, RouteChange),
        (schemas.ADAPTER_STATUS, AdapterStatus),
    ],
)
def test_types_have_the_schemas_fields(name: str, holder: type) -> None:
    """Listing, TagEvent (with Tag, Evidence, Model, Coordinates), DeadLetter, RouteChange (with Reference, Canary) and
    AdapterStatus: same names, same types."""
    assert types_of(holder) == simplified(schemas.load(name))


def breaks(name: str, new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """What an edit breaks, by Apache Avro's own checker: empty when it is allowed."""
    pairs = [(new, old)] if name in INPUTS else [(new, old), (old, new)]
    messages: list[str] = []
    for reader, writer in pairs:
        result = ReaderWriterCompatibilityChecker().get_compatibility(
            avro.schema.parse(json.dumps(reader)), avro.schema.parse(json.dumps(writer))
        )
        if result.compatibility is not SchemaCompatibilityType.compatible:
            messages += sorted(result.messages)
    return messages


@pytest.mark.parametrize(("name", "version"), RELEASES)
def test_compatible_with_every_release(name: str, version: str) -> None:
    """The current schema reads what every release wrote; for outputs every release reads what we write, too."""
    assert breaks(name, schemas.load(name), schemas.released(name)[version]) == []


def field(schema: dict[str, Any], name: str) -> dict[str, Any]:
    """The field of a record schema; `tags.kind` goes into the records of an array."""
    first, _, rest = name.partition(".")
    found = next(field for field in schema["fields"] if field["name"] == first)
    return field(found["type"]["items"], rest) if rest else found


def edited(name: str, edit: typing.Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The current schema after an edit in place."""
    schema = copy.deepcopy(schemas.load(name))
    edit(schema)
    return schema


BREAKING: list[tuple[str, str, typing.Callable[[dict[str, Any]], Any]]] = [
    (schemas.LISTING, "new field without default", lambda s: s["fields"].append({"name": "x", "type": "string"})),
    (schemas.LISTING, "rename a field", lambda s: field(s, "title").update(name="headline")),
    (schemas.LISTING, "another type", lambda s: field(s, "listing_version").update(type="string")),
    (schemas.LISTING, "a narrower type", lambda s: field(s, "listing_version").update(type="int")),
    (schemas.LISTING, "no longer null", lambda s: field(s, "locale").update(type="string", default="")),
    (schemas.LISTING, "another map", lambda s: field(s, "attributes").update(type={"type": "map", "values": "long"})),
    (schemas.LISTING, "rename the record", lambda s: s.update(name="Listing")),
    (schemas.TAGS, "drop a field without default", lambda s: s["fields"].remove(field(s, "source_event_id"))),
    (schemas.TAGS, "a wider type", lambda s: field(s, "tags.confidence").update(type="double")),
    (schemas.TAGS, "now null", lambda s: field(s, "tags.value").update(type=["null", "string"])),
    (schemas.TAGS, "new field of a tag", lambda s: field(s, "tags")["type"]["items"]["fields"].append(
        {"name": "x", "type": "string"}
    )),
    (schemas.TAGS, "no kind to fall back to", lambda s: (
        field(s, "tags.kind")["type"].pop("default"), field(s, "tags.kind")["type"]["symbols"].pop()
    )),
    (schemas.DEAD_LETTER, "drop a field without default", lambda s: s["fields"].remove(field(s, "reason"))),
    (schemas.DEAD_LETTER, "headers' values", lambda s: field(s, "headers.value").update(type="bytes")),
    (schemas.ADAPTER, "an action that older workers do not know", lambda s: (
        field(s, "action")["type"]["symbols"].append("pause")
    )),
    (schemas.ADAPTER, "drop a field without default", lambda s: s["fields"].remove(field(s, "revision"))),
    (schemas.ADAPTER_STATUS, "another type", lambda s: field(s, "control_offset").update(type="string")),
]  # fmt: skip
ALLOWED: list[tuple[str, str, typing.Callable[[dict[str, Any]], Any]]] = [
    (schemas.LISTING, "new field", lambda s: s["fields"].append({"name": "x", "type": "string", "default": ""})),
    (schemas.LISTING, "drop a field", lambda s: s["fields"].remove(field(s, "locale"))),
    (schemas.LISTING, "now null", lambda s: field(s, "title").update(type=["null", "string"])),
    (schemas.TAGS, "new field", lambda s: s["fields"].append({"name": "x", "type": "long", "default": 0})),
    (schemas.TAGS, "drop a field with default", lambda s: s["fields"].remove(field(s, "flags"))),
    (schemas.TAGS, "a new kind", lambda s: field(s, "tags.kind")["type"]["symbols"].append("season")),
    (schemas.ADAPTER, "new field", lambda s: s["fields"].append({"name": "x", "type": "string", "default": ""})),
    (schemas.ADAPTER_STATUS, "a new state", lambda s: field(s, "state")["type"]["symbols"].append("stopped")),
]


@pytest.mark.parametrize(("name", "what", "edit"), BREAKING)
def test_a_breaking_edit_is_found(name: str, what: str, edit: typing.Callable[[dict[str, Any]], Any]) -> None:
    """The compatibility test can fail: each of these edits of a schema makes it."""
    assert breaks(name, edited(name, edit), schemas.load(name)), what


@pytest.mark.parametrize(("name", "what", "edit"), ALLOWED)
def test_an_allowed_edit_passes(name: str, what: str, edit: typing.Callable[[dict[str, Any]], Any]) -> None:
    """The compatibility test lets the schemas grow."""
    assert breaks(name, edited(name, edit), schemas.load(name)) == [], what


def values(schema: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 one return a type
    """Anything that a schema can hold."""
    if isinstance(schema, list):
        return st.one_of([values(branch) for branch in schema])
    if isinstance(schema, dict):
        match schema["type"]:
            case "record":
                return st.fixed_dictionaries({field["name"]: values(field["type"]) for field in schema["fields"]})
            case "array":
                return st.lists(values(schema["items"]), max_size=3)
            case "map":
                return st.dictionaries(values("string"), values(schema["values"]), max_size=3)
            case "enum":
                return st.sampled_from(schema["symbols"])
            case primitive:
                return values(primitive)
    primitives: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": st.integers(-(2**62), 2**62),
        "float": st.floats(width=32, allow_nan=False),
        "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
        "bytes": st.binary(max_size=10),
    }
    return primitives[schema]


def plain(schema: Any) -> Any:
    """The schema without logical types: times as integers."""
    return json.loads(json.dumps(schema).replace(', "logicalType": "timestamp-millis"', ""))


def shared(record: Any, other: Any) -> bool:
    """Whether two records agree in every field that both have."""
    if isinstance(record, dict) and isinstance(other, dict):
        return all(shared(record[key], other[key]) for key in record.keys() & other.keys())
    if isinstance(record, list) and isinstance(other, list):
        return len(record) == len(other) and all(map(shared, record, other))
    return bool(record == other)


@pytest.mark.parametrize(("name", "version"), RELEASES)
@given(data=st.data())
def test_whatever_a_release_wrote_is_read(name: str, version: str, data: st.DataObject) -> None:
    """Any record of a released version, read with the current schema; and the reverse for outputs."""
    old, new = plain(schemas.released(name)[version]), plain(schemas.load(name))
    for writer, reader in [(old, new)] if name in INPUTS else [(old, new), (new, old)]:
        record = data.draw(values(writer))
        stream = BytesIO()
        fastavro.schemaless_writer(stream, fastavro.parse_schema(writer), record)
        stream.seek(0)
        read = fastavro.schemaless_reader(stream, fastavro.parse_schema(writer), fastavro.parse_schema(reader))
        assert shared(record, read)
        assert read.keys() == {field["name"] for field in reader["fields"]}


# Values as the releases wrote them, byte for byte. They never change; a field that is new since then has its default.
WRITTEN_LISTINGS = {
    "0.1.0": (
        "c3017d3498637cdcc1e20206652d3180a0bfe9d6660861636d6506702d3106404e696b652041697220466f726365203120e7"
        "94b7e5ad90e8bf90e58aa8e99e8b020ce998b2e6b0b4020a73686f6573020a7a682d434e020a636f6c6f720a776869746500"
        "023268747470733a2f2f6578616d706c652e636f6d2f312e6a70670000"
    ),
}
WRITTEN_TAGS = {
    "0.1.0": (
        "c30163e420be67d44e4f04356606652d311e70726f647563742d6372656174656404520861636d6506702d310600040a6272"
        "616e64084e696b65086e696b650000403f00020a7469746c65000800106f63636173696f6e0ce998b2e6b0b40ce998b2e6b0"
        "b40000003f020000020465350208696e74380e666c6f617433320e64656661756c7406312e300e0461620841565832f6a1bf"
        "e9d666021a7374616c655f76657273696f6e00"
    ),
}
WRITTEN_DEAD_LETTERS = {
    "0.1.0": (
        "c3016a645ab0a69de7531e70726f647563742d63726561746564045480a0bfe9d6661e696e76616c69645f6c697374696e67"
        "020a7469746c65020861636d6502026b02047b7d04167472616365706172656e740204303002780000000402043434f6a1bf"
        "e9d666"
    ),
}


@pytest.mark.parametrize("version", schemas.released(schemas.LISTING))
def test_released_listings_are_read(version: str) -> None:
    """The bytes that a release's producers put on product-created."""
    value = bytes.fromhex(WRITTEN_LISTINGS[version])
    assert Codec().decode_listing(Record("product-created", 0, 0, 0, None, value)) == Listing(
        merchant_id="acme",
        product_id="p-1",
        listing_version=3,
        title="Nike Air Force 1 男子运动鞋",
        event_time=1_764_000_000_000,
        event_id="e-1",
        description="防水",
        category="shoes",
        locale="zh-CN",
        attributes={"color": "white"},
        image_urls=("https://example.com/1.jpg",),
    )


@pytest.mark.parametrize("version", schemas.released(schemas.TAGS))
def test_released_tag_events_are_read(version: str) -> None:
    """The bytes that a release put on product-tags."""
    assert Codec().decode_tags(bytes.fromhex(WRITTEN_TAGS[version])) == TagEvent(
        event_id="5f",
        source_event_id="e-1",
        source=Coordinates("product-created", 2, 41),
        merchant_id="acme",
        product_id="p-1",
        listing_version=3,
        deleted=False,
        tags=(
            Tag("brand", "Nike", "nike", 0.75, "attribute", (Evidence("title", 0, 4),)),
            Tag("occasion", "防水", "防水", 0.5, "function", ()),
        ),
        model=Model("e5", 1, "int8", "float32", "default", "1.0", 7, "ab", "AVX2"),
        tagged_at=1_764_000_000_123,
        flags=("stale_version",),
    )


@pytest.mark.parametrize("version", schemas.released(schemas.DEAD_LETTER))
def test_released_dead_letters_are_read(version: str) -> None:
    """The bytes that a release put on product-tags-dlq."""
    assert Codec().decode_dead_letter(bytes.fromhex(WRITTEN_DEAD_LETTERS[version])) == DeadLetter(
        topic="product-created",
        partition=2,
        offset=42,
        timestamp=1_764_000_000_000,
        reason="invalid_listing",
        field="title",
        merchant_id="acme",
        key=b"k",
        value=b"{}",
        headers=(("traceparent", b"00"), ("x", None)),
        truncated=False,
        value_length=2,
        value_sha256="44",
        failed_at=1_764_000_000_123,
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_release_is_known_by_its_fingerprint(name: str) -> None:
    """A single object written by any release, or by us, finds its schema."""
    format_ = Format(name)
    for schema in [schemas.load(name), *schemas.released(name).values()]:
        assert format_.known(avro_fingerprint(schema)) is not None


def avro_fingerprint(schema: dict[str, Any]) -> bytes:
    """The fingerprint as single objects carry it."""
    return avro.schema.parse(json.dumps(plain(schema))).fingerprint("CRC-64-AVRO")
