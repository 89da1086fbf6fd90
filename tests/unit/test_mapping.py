"""Events of other people's shapes become listings, or dead letters that say which expression failed."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.codec import Codec
from streamer.errors import DecodeError, SettingsError
from streamer.mapping import MAX_EXPRESSION_BYTES, EventMapping
from streamer.pipeline import Pipeline
from streamer.records import Record
from streamer.settings import Settings, load
from taggen.listing import Listing
from tests import debezium
from tests.unit.fakes import FakeTagger

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NEEDED = {"merchant_id": "shop", "product_id": "id", "listing_version": "v", "title": "name"}
EVENT = {"shop": "acme", "id": "p-1", "v": 3, "name": "Boots", "at": 1_764_000_000_000}
NEVER = "绝密"  # text of an event, which no message may quote


def mapped(event: dict[str, Any], **expressions: str) -> Listing:
    """The listing of an event by the needed expressions and these."""
    return EventMapping(NEEDED | {"event_time": "at"} | expressions).listing(EVENT | event)


def value(event: Any) -> Record:
    """A record with this event in JSON, written at second 5."""
    return Record("offers", 0, 7, 5_000, None, json.dumps(event).encode())


def test_debezium_example() -> None:
    """docs/mapping.md: an insert with JSON in a column, and a deletion, whose row is in `before`."""
    mapping = EventMapping.load(EXAMPLES / "debezium.toml")
    lines = (EXAMPLES / "debezium.jsonl").read_text(encoding="utf-8").splitlines()
    created, deleted = [mapping.listing(json.loads(line)) for line in lines]
    assert created == Listing(
        "17",
        "1004",
        24_023_128,
        "Waterproof leather hiking boots",
        event_time=1_764_000_000_124,
        description="<p>Keeps your feet <b>dry</b>.</p>",
        category="Shoes > Outdoor",
        locale="en-GB",
        attributes={"Colour": "Walnut", "Sizes": "41, 42, 43", "Vegan": "false"},
        image_urls=("https://cdn.example/1004/1.jpg",),
    )
    assert deleted == Listing("17", "1004", 24_023_999, "", event_time=1_764_000_100_000, deleted=True)


def test_marketplace_example() -> None:
    """docs/mapping.md: texts by language, a path as category, facets as attributes, deletion by the event's type."""
    mapping = EventMapping.load(EXAMPLES / "marketplace.json")
    lines = (EXAMPLES / "marketplace.jsonl").read_text(encoding="utf-8").splitlines()
    published, withdrawn = [mapping.listing(json.loads(line)) for line in lines]
    assert published == Listing(
        "nanjing-sport",
        "AF1-07-41",
        3,
        "Nike Air Force 1 Low 07 男子运动鞋",
        event_time=1_795_521_600_500,
        event_id="0b9c1f",
        description="皮革材质,耐磨防水。",
        category="鞋靴 > 男子运动鞋",
        locale="zh",
        attributes={"颜色": "白, 黑", "材质": "皮革"},
        image_urls=("https://cdn.example/af1.jpg",),
    )
    assert (withdrawn.deleted, withdrawn.listing_version, withdrawn.title) == (True, 4, "")


@pytest.mark.parametrize(
    "at",
    [
        "2026-11-24T12:00:00Z",
        "2026-11-24T20:00:00.000+08:00",
        "20261124T120000Z",
        1_795_521_600,
        1_795_521_600.0,
        "1795521600",
        "1795521600.0",
        1_795_521_600_000,
        1_795_521_600_000_000,
        1_795_521_600_000_000_000,
    ],
)
def test_one_time_in_many_forms(at: Any) -> None:
    """ISO 8601, and seconds to nanoseconds since 1970, as numbers or text."""
    assert mapped({"at": at}).event_time == 1_795_521_600_000


@given(st.integers(10**8 * 1000, 10**11 * 1000 - 1), st.sampled_from([-3, 0, 3, 6]))
def test_epoch_times_keep_their_milliseconds(milliseconds: int, digits: int) -> None:
    """From 1973 to 5138 no unit is taken for another, and nothing finer than a millisecond is needed."""
    at = milliseconds / 1000 if digits == -3 else milliseconds * 10**digits
    assert mapped({"at": at}).event_time == milliseconds


@pytest.mark.parametrize(
    ("at", "problem"),
    [
        ("2026-11-24T12:00:00", "without a zone"),
        (20_000, "not a time"),
        (-1_764_000_000, "not a time"),
        (10**20, "not a time"),
        (float("nan"), "not a time"),
        (NEVER, "not a time"),
        (True, "true or false"),
        ([1_764_000_000], "a list"),
    ],
)
def test_what_is_no_time(at: Any, problem: str) -> None:
    """Days, times without a zone and anything else are refused, not guessed at."""
    with pytest.raises(DecodeError, match=problem) as caught:
        mapped({"at": at})
    assert (caught.value.reason, caught.value.field, caught.value.expression) == ("unmapped", "event_time", "at")
    assert NEVER not in str(caught.value)


@pytest.mark.parametrize(
    ("version", "expected"), [(7, 7), (7.0, 7), ("7", 7), ("2026-11-24T12:00:00Z", 1_795_521_600_000)]
)
def test_versions(version: Any, expected: int) -> None:
    """A version is an integer, in text or not, or a time."""
    assert mapped({"v": version}).listing_version == expected


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        (
            {"a": 1, "b": 2.5, "c": True, "d": None, "e": ["x", None, 3], "f": ""},
            {"a": "1", "b": "2.5", "c": "true", "e": "x, 3"},
        ),
        ([{"name": "a", "value": "x"}, {"name": "b", "value": None}, {"name": "a", "value": "y"}], {"a": "x, y"}),
        (None, {}),
    ],
)
def test_attributes(attributes: Any, expected: dict[str, str]) -> None:
    """Objects and lists of names and values; a name that comes twice keeps both values."""
    assert mapped({"specs": attributes}, attributes="specs").attributes == expected


@pytest.mark.parametrize("deleted", [True, 1, "true"])
def test_deletions(deleted: Any) -> None:
    """A deletion may be said in several ways, and needs no title; null is none."""
    assert mapped({"gone": deleted, "name": None}, deleted="gone").deleted
    assert not mapped({"gone": None}, deleted="gone").deleted


@pytest.mark.parametrize(
    ("event", "expressions", "field"),
    [
        ({"shop": None}, {}, "merchant_id"),
        ({"name": None}, {}, "title"),
        ({"name": {"en": NEVER}}, {}, "title"),
        ({"name": True}, {}, "title"),
        ({"v": NEVER}, {}, "listing_version"),
        ({"v": -1}, {}, "listing_version"),
        ({"specs": NEVER}, {"attributes": "from_json(specs)"}, "attributes"),
        ({"specs": [NEVER]}, {"attributes": "specs"}, "attributes"),
        ({"specs": {"a": {"b": NEVER}}}, {"attributes": "specs"}, "attributes"),
        ({"name": NEVER}, {"category": "join(', ', name)"}, "category"),
        ({"name": NEVER}, {"category": "max_by(@, &x)"}, "category"),
        ({"pictures": [1]}, {"image_urls": "pictures"}, "image_urls"),
        ({"name": NEVER}, {"deleted": "name"}, "deleted"),
        ({"name": "\ud800"}, {}, "title"),
    ],
)
def test_what_gives_no_listing(event: dict[str, Any], expressions: dict[str, str], field: str) -> None:
    """The error names field and expression and, where it can be read, the merchant, and never quotes the event."""
    with pytest.raises(DecodeError) as caught:
        mapped(event, **expressions)
    error = caught.value
    assert (error.reason, error.field) == ("unmapped", field)
    assert error.expression == (NEEDED | expressions)[field]
    assert error.merchant_id == (None if field == "merchant_id" else "acme")
    assert NEVER not in str(error)


def test_a_listing_beyond_the_limits_is_too_large() -> None:
    """It was read well: the reason is that of any other listing."""
    with pytest.raises(DecodeError, match="too_large: title") as caught:
        mapped({"name": "x" * 5_000})
    assert caught.value.expression == "name"


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from(list(EVENT)) | st.text(), parts),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*EVENT, "specs"]), any_json))
def test_any_event_is_a_listing_or_a_dead_letter(event: dict[str, Any]) -> None:
    """Whatever an event holds, nothing but DecodeError comes of it."""
    mapping = EventMapping(NEEDED | {"event_time": "at", "attributes": "specs", "image_urls": "specs", "deleted": "v"})
    try:
        mapped = mapping.listing(event)
    except DecodeError as error:
        field = error.field
    else:
        field = "merchant_id" if mapped.merchant_id else None
    assert field in mapping.expressions


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("m.toml", "merchant_id = ", "Invalid value"),
        ("m.json", "{", "Expecting property name"),
        ("m.json", "[]", "not an object"),
        ("m.json", json.dumps(NEEDED | {"price": "price"}), "price: no field of a listing"),
        ("m.json", json.dumps({"merchant_id": "a", "product_id": "b", "listing_version": "c"}), "title: has no expr"),
        ("m.json", json.dumps(NEEDED | {"title": "a ||"}), "title: not a JMESPath expression"),
        ("m.json", json.dumps(NEEDED | {"title": "a && [lower(b)]"}), r"title: JMESPath has no function lower\(\)"),
        ("m.json", json.dumps(NEEDED | {"title": ["a"]}), "title: an expression is a string"),
        ("m.json", json.dumps(NEEDED | {"title": "a" * MAX_EXPRESSION_BYTES + "b"}), "1024 bytes at most"),
    ],
)
def test_a_wrong_file_stops_the_start(tmp_path: Path, name: str, text: str, problem: str) -> None:
    """One line that names the file and, where one is at fault, the field."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SettingsError, match=problem) as caught:
        EventMapping.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STREAMER_MAPPING names the file, which is read with the codec."""
    monkeypatch.setenv("STREAMER_MAPPING", str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match=r"none\.toml: No such file"):
        Codec.from_settings(load())


def test_the_pipeline_maps_events() -> None:
    """Mapped events are tagged, our own Avro passes by, and what gives no listing is a dead letter with the expression
    that failed, which a reader of the topic finds in it."""
    settings = Settings(mapping=EXAMPLES / "marketplace.json")
    codec = Codec.from_settings(settings)
    published = json.loads((EXAMPLES / "marketplace.jsonl").read_text(encoding="utf-8").splitlines()[0])
    ours = Record("offers", 0, 8, 0, None, Codec().encode_listing(Listing("acme", "p-1", 1, "Boots")))
    wrong = published | {"payload": published["payload"] | {"offer": {"sku": "s", "revision": "new", "path": []}}}
    outputs = Pipeline(settings, codec, FakeTagger()).process([value(published), ours, value(wrong), value([])])
    tagged, own = (codec.decode_tags(output.value) for output in outputs[:2])
    assert (tagged.merchant_id, tagged.source_event_id) == ("nanjing-sport", "0b9c1f")
    assert own.merchant_id == "acme"
    letter, undecodable = (codec.decode_dead_letter(output.value) for output in outputs[2:])
    assert (letter.reason, letter.field, letter.expression) == (
        "unmapped",
        "listing_version",
        "payload.offer.revision",
    )
    assert letter.merchant_id == "nanjing-sport"
    assert (undecodable.reason, undecodable.expression) == ("undecodable", None)


def test_without_a_time_the_records_stands_in() -> None:
    """An event's time may be left out, or be null."""
    event = EVENT | {"at": None}
    for expressions in (NEEDED, NEEDED | {"event_time": "at"}):
        assert Codec(mapping=EventMapping(expressions)).decode_listing(value(event)).event_time == 5_000


class OneSchema:
    """A registry that knows one schema, under the id 7."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._text = json.dumps(schema)

    def schema(self, schema_id: int) -> str | None:
        return self._text if schema_id == 7 else None


def test_avro_of_any_schema() -> None:
    """A frame whose schema is not ours is mapped in its writer's terms: Debezium's, whose row is named once."""
    codec = Codec(OneSchema(debezium.ENVELOPE), mapping=EventMapping.load(EXAMPLES / "debezium.toml"))  # type: ignore[arg-type]
    before, after = debezium.row(4, "Boots"), debezium.row(4, "Boots")
    created, deleted = (
        codec.decode_listing(Record("t", 0, 0, 0, None, struct.pack(">bI", 0, 7) + body))
        for body in (debezium.change(9, "c", None, after), debezium.change(10, "d", before, None))
    )
    assert created == Listing(
        "17",
        "4",
        9,
        "Boots",
        event_time=1_764_000_000_124,
        category="Shoes",
        locale="en-GB",
        attributes={"Colour": "Walnut"},
    )
    assert deleted == Listing("17", "4", 10, "", event_time=1_764_000_000_124, deleted=True)
