"""Bytes to events and back: exact bytes, round trips, and what is no event."""

import json
import math
import struct
import time
import typing
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.codec import Codec
from streamer.errors import DecodeError
from streamer.records import AdapterStatus, Coordinates, DeadLetter, Record, TagEvent, WorkerState, route_key, tag_key
from streamer.routing import Canary, RouteChange
from taggen.errors import AdapterError
from taggen.listing import Listing
from taggen.reference import Reference
from taggen.tag import Evidence, Model, Tag

CODEC = Codec()

# any Unicode that UTF-8 can hold: controls, null, combining marks, bidi, emoji, private use
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ids = text.filter(str.strip)
int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
listings = st.builds(
    Listing,
    merchant_id=ids,
    product_id=ids,
    listing_version=st.integers(0, 2**63 - 1),
    title=ids,
    event_time=st.integers(-(2**63) + 1, 2**63 - 1),
    event_id=st.none() | ids,
    description=st.none() | text,
    category=st.none() | text,
    locale=st.none() | text,
    attributes=st.dictionaries(text, text, max_size=5),
    image_urls=st.lists(text, max_size=5).map(tuple),
    deleted=st.booleans(),
)
tags = st.builds(
    Tag,
    name=text,
    value=text,
    normalized=text,
    confidence=st.floats(0, 1, width=32),
    kind=st.sampled_from(["attribute", "function", "occasion"]),
    evidence=st.lists(st.builds(Evidence, field=text, start=int32, end=int32), max_size=3).map(tuple),
)
models = st.builds(
    Model,
    base=text,
    generation=int32,
    quantization=text,
    compute_dtype=text,
    adapter=text,
    version=text,
    revision=int64,
    fingerprint=text,
    numerics_class=text,
)
tag_events = st.builds(
    TagEvent,
    event_id=text,
    source_event_id=text,
    source=st.builds(Coordinates, topic=text, partition=int32, offset=int64),
    merchant_id=text,
    product_id=text,
    listing_version=int64,
    deleted=st.booleans(),
    tags=st.lists(tags, max_size=4).map(tuple),
    model=st.none() | models,
    tagged_at=int64,
    flags=st.lists(text, max_size=3).map(tuple),
)
dead_letters = st.builds(
    DeadLetter,
    topic=text,
    partition=int32,
    offset=int64,
    timestamp=int64,
    reason=text,
    field=st.none() | text,
    merchant_id=st.none() | text,
    key=st.none() | st.binary(max_size=30),
    value=st.none() | st.binary(max_size=100),
    headers=st.lists(st.tuples(text, st.none() | st.binary(max_size=30)), max_size=3).map(tuple),
    truncated=st.booleans(),
    value_length=int64,
    value_sha256=st.none() | text,
    failed_at=int64,
    attempts=st.integers(0, 2**31 - 1),
    expression=st.none() | text,
)

references = st.builds(
    Reference,
    name=st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True),
    version=st.from_regex(r"[0-9][a-z0-9._-]{0,5}", fullmatch=True),
    digest=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
route_changes = st.builds(
    RouteChange,
    merchant_id=ids,
    base_fingerprint=text,
    revision=st.integers(1, 2**63 - 1),
    action=st.sampled_from(["rollback", "retire"]),
    adapter=st.none() | references,
    canary=st.none(),
    issued_at=int64,
) | st.builds(
    RouteChange,
    merchant_id=ids,
    base_fingerprint=text,
    revision=st.integers(1, 2**63 - 1),
    action=st.just("assign"),
    adapter=references,
    canary=st.none() | st.builds(Canary, share=st.floats(0, 1), id=text),
    issued_at=int64,
)
statuses = st.builds(
    AdapterStatus,
    worker=text,
    base_fingerprint=text,
    state=st.sampled_from(typing.get_args(WorkerState)),
    control_offset=int64,
    merchant_id=st.none() | text,
    revision=st.none() | int64,
    adapter=st.none() | references,
    reason=st.none() | text,
    detail=st.none() | text,
    reported_at=int64,
)
CHANGE = RouteChange("acme", "f" * 64, 1, "assign", Reference("shoes", "1", "0" * 64), None, 1)

SMALL = Listing("m", "p", 3, "鞋", event_time=1, locale="zh", attributes={"c": "w"})
SMALL_AVRO = (
    b"\x00"  # event_id: null
    b"\x02"  # event_time: 1, zigzag
    b"\x02m\x02p"  # merchant_id, product_id: length 1, zigzag
    b"\x06"  # listing_version: 3
    b"\x06\xe9\x9e\x8b"  # title: 3 bytes of UTF-8
    b"\x00\x00"  # description, category: null
    b"\x02\x04zh"  # locale: second branch, 2 bytes
    b"\x02\x02c\x02w\x00"  # attributes: a block of 1, the end
    b"\x00"  # image_urls: the end
    b"\x00"  # deleted: false
)
SINGLE_OBJECT = b"\xc3\x01" + bytes.fromhex("7d3498637cdcc1e2")  # of product-listing.avsc


def record(value: bytes | None) -> Record:
    """A Kafka record with this value."""
    return Record("product-created", 0, 7, 1_764_000_000_000, None, value)


def as_json(listing: Listing, **changes: Any) -> bytes:
    """A listing as a producer of JSON writes it."""
    content = {field.name: getattr(listing, field.name) for field in fields(listing)}
    return json.dumps(content | changes).encode()


def refusal(value: bytes | None) -> DecodeError:
    """The error that a value is refused with."""
    with pytest.raises(DecodeError) as caught:
        CODEC.decode_listing(record(value))
    return caught.value


def test_writes_single_objects() -> None:
    """C3 01, the fingerprint lowest byte first, the Avro body: byte for byte."""
    assert CODEC.encode_listing(SMALL) == SINGLE_OBJECT + SMALL_AVRO
    assert CODEC.decode_listing(record(SINGLE_OBJECT + SMALL_AVRO)) == SMALL


def test_tag_key_is_a_compact_json_array() -> None:
    """The output key: UTF-8, no blanks, quotes escaped."""
    assert tag_key("acme", '鞋"1') == '["acme","鞋\\"1"]'.encode()


@given(listings)
def test_listing_round_trip(listing: Listing) -> None:
    """A listing comes back the same from Avro and from JSON."""
    assert CODEC.decode_listing(record(CODEC.encode_listing(listing))) == listing
    assert CODEC.decode_listing(record(as_json(listing))) == listing


@given(tag_events)
def test_tag_event_round_trip(event: TagEvent) -> None:
    """A tag event comes back the same."""
    assert CODEC.decode_tags(CODEC.encode_tags(event)) == event


@given(dead_letters)
def test_dead_letter_round_trip(letter: DeadLetter) -> None:
    """A dead letter comes back the same, its bytes untouched."""
    assert CODEC.decode_dead_letter(CODEC.encode_dead_letter(letter)) == letter


@given(change=route_changes)
def test_route_change_round_trip(change: RouteChange) -> None:
    """A control record's bytes give the record again."""
    assert CODEC.decode_route_change(CODEC.encode_route_change(change)) == change


@given(status=statuses)
def test_adapter_status_round_trip(status: AdapterStatus) -> None:
    """A status's bytes give the status again."""
    assert CODEC.decode_adapter_status(CODEC.encode_adapter_status(status)) == status


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"adapter": None}, "adapter"),
        ({"revision": 0}, None),
        ({"merchant_id": ""}, None),
        ({"merchant_id": "m" * 257}, None),
        ({"canary": Canary(1.01, "c")}, "canary.share"),
        ({"canary": Canary(math.nan, "c")}, "canary.share"),
    ],
)
def test_refuses_a_control_record_that_contradicts_itself(changes: dict[str, Any], field: str | None) -> None:
    """It decodes and is no record all the same: the log's readers pass over it."""
    with pytest.raises(DecodeError) as raised:
        CODEC.decode_route_change(CODEC.encode_route_change(CHANGE._replace(**changes)))
    assert (raised.value.reason, raised.value.field) == ("invalid_record", field)


@pytest.mark.parametrize(
    "name", ["../x", "..", ".x", "a/b", "a\\b", "/etc", "", "a\0", "s3://x", "é", "a" * 129, "a\n"]
)
def test_no_name_leads_out_of_a_store(name: str) -> None:
    """Neither ours is made nor others' bytes are read with a name that is more than a folder's."""
    for part in ("name", "version", "digest"):
        with pytest.raises(AdapterError, match=rf"adapter {part} .* does not match") as refused:
            replace(CHANGE.adapter, **{part: name})
        assert refused.value.reason == "name"
    value = CODEC.encode_route_change(CHANGE)
    tricked = value.replace(b"\x0ashoes", avro_string(name), 1)
    assert tricked != value
    with pytest.raises(DecodeError) as raised:
        CODEC.decode_route_change(tricked)
    assert (raised.value.reason, raised.value.field) == ("invalid_record", "adapter")


def avro_string(text: str) -> bytes:
    """A string as Avro writes it: its length (zigzag, base 128) and its bytes."""
    data = text.encode()
    length = 2 * len(data)
    return (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])) + data


def test_route_key_is_a_compact_json_array() -> None:
    """Merchant and base fingerprint."""
    assert route_key("acme", "ab") == b'["acme","ab"]'


def test_json_may_have_a_byte_order_mark_and_blanks_before() -> None:
    """What Windows tools and pretty printers put before the object does no harm."""
    assert CODEC.decode_listing(record(b"\xef\xbb\xbf" + as_json(SMALL))) == SMALL
    assert CODEC.decode_listing(record(b" \r\n\t" + as_json(SMALL))) == SMALL


WHOLE = CODEC.encode_listing(Listing("m", "p", 1, "Boots", attributes={"color": "red"}, image_urls=("u",)))
HEAD = SINGLE_OBJECT + b"\x00\x02\x02m\x02p\x06\x02t\x00\x00\x00"  # up to the attributes
LONG = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01"  # 2 ** 63 - 1
TWO_GB = b"\x80\x80\x80\x80\x10"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(None, "null_value", id="null"),
        pytest.param(b"", "undecodable", id="empty"),
        pytest.param(b"\xc3", "undecodable", id="half a marker"),
        pytest.param(b"\xc3\x01\x7d\x34", "undecodable", id="half a fingerprint"),
        pytest.param(b"\xc3\x01" + bytes(8) + SMALL_AVRO, "unknown_schema", id="unknown fingerprint"),
        pytest.param(b"\x00\x00\x00\x00\x01" + SMALL_AVRO, "unknown_schema", id="Confluent frame, no registry"),
        pytest.param(WHOLE + b"\x00", "undecodable", id="a byte after the record"),
        pytest.param(WHOLE + WHOLE, "undecodable", id="two records"),
        pytest.param(SINGLE_OBJECT + b"\x00\x02" + TWO_GB + b"m", "undecodable", id="string of 2 GB"),
        pytest.param(SINGLE_OBJECT + b"\x00\x02" + LONG + b"m", "undecodable", id="string of 2 ** 63 bytes"),
        pytest.param(SINGLE_OBJECT + b"\x00\x02\x01m", "undecodable", id="string of -1 bytes"),
        pytest.param(HEAD + LONG + bytes(1_000), "undecodable", id="endless map"),
        pytest.param(HEAD + b"\x00" + LONG + bytes(1_000), "undecodable", id="endless array"),
        pytest.param(SINGLE_OBJECT + b"\x00\x02\x04\xff\xfe\x02p", "undecodable", id="not UTF-8 in Avro"),
        pytest.param(SINGLE_OBJECT + b"\x0e" + SMALL_AVRO[1:], "undecodable", id="no such branch of a union"),
        pytest.param(SINGLE_OBJECT + b"\x02" + b"\xff" * 1_000, "undecodable", id="endless number"),
        pytest.param(as_json(SMALL).decode().encode("utf-16"), "undecodable", id="JSON in UTF-16"),
        pytest.param(as_json(SMALL).replace(b'"zh"', b'"\xff"'), "undecodable", id="JSON, not UTF-8"),
        pytest.param(as_json(SMALL)[:-1], "undecodable", id="JSON, cut off"),
        pytest.param(as_json(SMALL) + b"{}", "undecodable", id="two JSON objects"),
        pytest.param(b"[" + as_json(SMALL) + b"]", "undecodable", id="JSON, not an object"),
        pytest.param(b'{"title": "a", "title": "b"}', "undecodable", id="JSON, a key twice"),
        pytest.param(b'{"title": "a", "stock": NaN}', "undecodable", id="JSON with NaN"),
        pytest.param(b'{"a": ' * 100_000, "undecodable", id="JSON, deep"),
        pytest.param(b'{"a": ' + b"[" * 100_000, "undecodable", id="JSON, deep arrays"),
        pytest.param(b'{"a": ' + b"9" * 1_000_000 + b"}", "undecodable", id="JSON, a huge integer"),
        pytest.param(as_json(SMALL, title="\ud800"), "invalid_listing", id="JSON, half a surrogate pair"),
        pytest.param(as_json(SMALL, title=None), "invalid_listing", id="no title"),
        pytest.param(as_json(SMALL, description="x" * 10_000_000), "too_large", id="description of 10 MB"),
        pytest.param(as_json(SMALL, image_urls=[""] * 1_000_000), "too_large", id="a million URLs"),
        pytest.param(as_json(SMALL, category="x" * 10_000_000), "too_large", id="category of 10 MB"),
    ],
)
def test_refuses_what_is_no_listing(value: bytes | None, reason: str) -> None:
    """Each comes out as a DecodeError with its reason code, soon."""
    began = time.process_time()
    assert refusal(value).reason == reason
    assert time.process_time() - began < 1


def test_a_refusal_names_field_and_merchant_and_quotes_nothing() -> None:
    """What a dead letter and the log need; a merchant id that cannot be written again is left out."""
    error = refusal(as_json(SMALL, merchant_id="acme", title="secret " * 1_000))
    assert (error.reason, error.field, error.merchant_id) == ("too_large", "title", "acme")
    assert "secret" not in str(error)
    for merchant_id in ("\ud800", "m" * 10_000, 7, None):
        assert refusal(as_json(SMALL, merchant_id=merchant_id)).merchant_id is None


@given(st.integers(1, len(WHOLE)))
def test_refuses_every_cut(length: int) -> None:
    """A value cut off anywhere is undecodable."""
    assert refusal(WHOLE[:-length]).reason == "undecodable"


mangled = st.builds(
    lambda whole, start, length, middle: whole[:start] + middle + whole[start + length :],
    st.just(WHOLE),
    st.integers(0, len(WHOLE)),
    st.integers(0, 20),
    st.binary(max_size=30),
)
bodies = st.builds(bytes.__add__, st.just(SINGLE_OBJECT), st.binary(max_size=200))
framed = st.builds(
    lambda schema_id, body: struct.pack(">bI", 0, schema_id) + body, st.integers(0, 2**32 - 1), st.binary()
)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
json_objects = st.dictionaries(
    st.sampled_from([field.name for field in fields(Listing)]) | st.text(), json_values, max_size=12
).map(lambda content: json.dumps(content).encode())


@given(st.binary(max_size=300) | mangled | bodies | framed | json_objects)
@example(b"\x00")
def test_any_bytes_are_a_listing_or_refused(value: bytes) -> None:
    """Whatever the bytes, nothing but a listing that can be written again or a DecodeError comes out."""
    try:
        listing = CODEC.decode_listing(record(value))
    except DecodeError:
        return
    assert CODEC.decode_listing(record(CODEC.encode_listing(listing))) == listing


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_refused(body: bytes) -> None:
    """The same for tag events and dead letters, which `streamer tail` reads."""
    tags_prefix = CODEC.encode_tags(TagEvent("", "", Coordinates("", 0, 0), "", "", 0, False, (), None, 0, ()))[:10]
    letter = DeadLetter("", 0, 0, 0, "", None, None, None, None, (), False, 0, None, 0)
    letter_prefix = CODEC.encode_dead_letter(letter)[:10]
    for value in (body, tags_prefix + body, letter_prefix + body):
        for decode in (CODEC.decode_tags, CODEC.decode_dead_letter):
            try:
                decode(value)
            except DecodeError:
                continue
