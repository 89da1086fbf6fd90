"""The codec with a real Schema Registry."""

import copy
import json
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest

import schemas
from streamer.codec import Codec
from streamer.errors import DecodeError, RegistryError, RegistryUnavailable
from streamer.mapping import EventMapping
from streamer.records import Coordinates, DeadLetter, Record, TagEvent
from streamer.registry import Registry
from streamer.sample import check, events
from taggen.listing import Listing
from tests import debezium
from tests.apicurio import Apicurio

pytestmark = pytest.mark.registry

DEBEZIUM = Path(__file__).parents[2] / "docs" / "examples" / "debezium.toml"
JSON_SCHEMA = "http://json-schema.org/draft-07/schema#"
LISTING = Listing("acme", "p-1", 3, "防水 boots", event_time=1_764_000_000_000, attributes={"color": "red"})
EVENT = TagEvent("5f", "e", Coordinates("product-created", 0, 1), "acme", "p-1", 3, True, (), None, 1, ())
LETTER = DeadLetter("product-created", 0, 2, -1, "undecodable", None, None, None, b"x", (), False, 1, "2d", 1)


def record(value: bytes) -> Record:
    """A Kafka record with this value."""
    return Record("product-created", 0, 0, 0, None, value)


def frame(schema_id: int, body: bytes = b"") -> bytes:
    """The Confluent frame: 0, the id in four bytes, the highest first."""
    return struct.pack(">bI", 0, schema_id) + body


def ask(method: str, url: str, body: Any = None) -> Any:
    """A request to the registry, without our client."""
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    answer = httpx.request(method, url, headers=headers, content=None if body is None else json.dumps(body))
    assert answer.is_success, answer.text
    return answer.json()


def register(registry: Apicurio, subject: str, schema: Any, kind: str = "AVRO") -> int:
    """Register another producer's schema."""
    body = {"schema": json.dumps(schema), "schemaType": kind}
    return int(ask("POST", f"{registry.url}/subjects/{subject}/versions", body)["id"])


def ahead_of_us(*more: dict[str, Any]) -> dict[str, Any]:
    """The listing schema with more fields."""
    schema = copy.deepcopy(schemas.load(schemas.LISTING))
    schema["fields"] += more
    return schema


def test_writes_frames_that_the_registry_knows(registry: Apicurio, unique: Callable[[str], str]) -> None:
    """The frame's id names our schema in the registry, under TOPIC-value; what was written is read."""
    topics = {name: unique(name) for name in ("created", "tags", "letters")}
    codec = Codec(Registry(registry.url), topics["tags"], topics["letters"])
    written = {
        (schemas.LISTING, topics["created"]): codec.encode_listing(LISTING, topics["created"]),
        (schemas.TAGS, topics["tags"]): codec.encode_tags(EVENT),
        (schemas.DEAD_LETTER, topics["letters"]): codec.encode_dead_letter(LETTER),
    }
    alone = Codec()
    bodies = [alone.encode_listing(LISTING), alone.encode_tags(EVENT), alone.encode_dead_letter(LETTER)]
    for ((name, topic), value), single in zip(written.items(), bodies, strict=True):
        latest = ask("GET", f"{registry.url}/subjects/{topic}-value/versions/latest")
        assert value == frame(latest["id"], single[10:])
        assert json.loads(latest["schema"]) == schemas.load(name)
    reader = Codec(Registry(registry.url))
    listing, event, letter = written.values()
    assert reader.decode_listing(record(listing)) == LISTING
    assert reader.decode_tags(event) == EVENT
    assert reader.decode_dead_letter(letter) == LETTER


def test_still_reads_single_objects_and_json(registry: Apicurio) -> None:
    """A registry adds a form, it takes none away: topics hold values from before it was there."""
    codec = Codec(Registry(registry.url))
    assert codec.decode_listing(record(Codec().encode_listing(LISTING))) == LISTING


def test_reads_a_producer_that_is_ahead(registry: Apicurio, unique: Callable[[str], str]) -> None:
    """A producer's schema with a field that we do not know is found by its id and resolved."""
    schema = ahead_of_us({"name": "brand", "type": "string", "default": ""})
    schema_id = register(registry, unique("ahead"), schema)
    content = {name: getattr(LISTING, name) for name in Listing.__slots__} | {"brand": "X"}
    body = BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), content | {"image_urls": []})
    assert Codec(Registry(registry.url)).decode_listing(record(frame(schema_id, body.getvalue()))) == LISTING


def test_a_frame_is_a_sample_for_a_mapping(registry: Apicurio, unique: Callable[[str], str], tmp_path: Path) -> None:
    """`streamer map check` reads a record's value as it stands in Kafka, with the schema that its frame names."""
    schema_id = register(registry, unique("theirs"), debezium.ENVELOPE)
    sample = tmp_path / "value"
    sample.write_bytes(frame(schema_id, debezium.change(9, "c", None, debezium.row(4, "Boots"))))
    [event] = events(sample, Codec(Registry(registry.url)))
    checked = check(EventMapping.load(DEBEZIUM), event)
    assert checked.problem is None
    assert (checked.record["merchant_id"], checked.record["title"]) == ("17", "Boots")
    assert checked.empty == ["description", "image_urls"]


def test_unknown_ids_are_poison(registry: Apicurio, unique: Callable[[str], str]) -> None:
    """An id that the registry does not have, or has for a schema that we cannot read with, costs its record only."""
    recursive = ahead_of_us({"name": "parent", "type": ["null", "ProductListing"], "default": None})
    ids = [
        0,
        123_456_789,
        2**32 - 1,
        register(registry, unique("json"), {"$schema": JSON_SCHEMA, "type": "object"}, "JSON"),
        register(registry, unique("recursive"), recursive),
    ]
    codec = Codec(Registry(registry.url))
    for schema_id in ids:
        with pytest.raises(DecodeError, match="unknown_schema"):
            codec.decode_listing(record(frame(schema_id, b"\x02" * 100)))


def test_an_id_may_become_known(registry: Apicurio, unique: Callable[[str], str]) -> None:
    """That an id is unknown is not remembered: its producer may be about to register it."""
    codec = Codec(Registry(registry.url))
    coming = register(registry, unique("before"), {"type": "enum", "name": "Before", "symbols": ["a"]}) + 1
    with pytest.raises(DecodeError, match="unknown_schema"):
        codec.decode_listing(record(frame(coming)))
    assert coming == register(registry, unique("after"), {"type": "enum", "name": "After", "symbols": ["a"]})
    with pytest.raises(DecodeError, match="undecodable"):
        codec.decode_listing(record(frame(coming)))


def test_a_schema_against_the_registrys_rules_is_refused(registry: Apicurio, unique: Callable[[str], str]) -> None:
    """Where a subject must stay compatible and our schema is not, writing stops with the subject's name."""
    topic = unique("other")
    register(registry, f"{topic}-value", {"type": "record", "name": "Other", "fields": []})
    ask("PUT", f"{registry.url}/config/{topic}-value", {"compatibility": "FULL"})
    with pytest.raises(RegistryError, match=f"409 for subject {topic}-value: Incompatible schema") as caught:
        Codec(Registry(registry.url), tags_topic=topic).encode_tags(EVENT)
    assert not isinstance(caught.value, RegistryUnavailable)


def test_a_wrong_path_is_not_poison(registry: Apicurio) -> None:
    """A 404 that is not the registry's own says nothing about a schema: the worker must stop, not drain its topic."""
    wrong = registry.url.removesuffix("v7") + "v99"
    codec = Codec(Registry(wrong, timeout_s=30))  # its first 404 has once taken longer than five seconds
    with pytest.raises(RegistryUnavailable, match="not a schema registry"):
        codec.decode_listing(record(frame(1)))
    with pytest.raises(RegistryUnavailable, match="not a schema registry"):
        codec.encode_tags(EVENT)


def test_a_registry_that_is_gone(own_registry: Apicurio) -> None:
    """Ids seen before go on being read and written; any other raises RegistryUnavailable."""
    codec = Codec(Registry(own_registry.url))
    value = codec.encode_listing(LISTING)
    assert codec.decode_listing(record(value)) == LISTING
    own_registry.stop()
    assert codec.decode_listing(record(value)) == LISTING
    assert codec.encode_listing(LISTING) == value
    with pytest.raises(RegistryUnavailable, match=own_registry.bootstrap):
        codec.decode_listing(record(frame(999)))
    with pytest.raises(RegistryUnavailable, match=own_registry.bootstrap):
        codec.encode_tags(EVENT)
