"""The pipeline: every record one output, in order; a poison record costs itself only."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest

from streamer.codec import Codec
from streamer.errors import RegistryUnavailable
from streamer.pipeline import STALE, Job, Output, Pipeline, Served, event_id, isolate
from streamer.records import DeadLetter, Record, TagEvent
from streamer.settings import Settings
from taggen.errors import DeviceError
from tests.unit.fakes import MODEL, FakeTagger, record

CODEC = Codec()


def listing(title: str = "Boots", **fields: Any) -> bytes:
    """A listing as JSON."""
    required = {"merchant_id": "m", "product_id": "p", "listing_version": 1, "title": title, "event_time": 5}
    return json.dumps(required | fields).encode()


def pipeline(tagger: FakeTagger | None = None, max_output_bytes: int | None = None) -> Pipeline:
    """The pipeline under test, with a clock that stands."""
    return Pipeline(Settings(), CODEC, tagger or FakeTagger(), max_output_bytes, clock=lambda: 77)


def tags(output: Output) -> TagEvent:
    """The tag event in an output, which must be one."""
    assert output.topic == "product-tags"
    return CODEC.decode_tags(output.value)


def letter(output: Output) -> DeadLetter:
    """The dead letter in an output, which must be one."""
    assert output.topic == "product-tags-dlq"
    return CODEC.decode_dead_letter(output.value)


def test_a_listing_becomes_a_tag_event() -> None:
    """All of the event is there: ids, coordinates, tags, what served, when."""
    [output] = pipeline().process([record(listing(event_id="e1"), offset=9)])
    event = tags(output)
    assert output.key == b'["m","p"]'
    assert (event.source_event_id, event.source) == ("e1", ("product-created", 0, 9))
    assert (event.merchant_id, event.product_id, event.listing_version, event.deleted) == ("m", "p", 1, False)
    assert [tag.value for tag in event.tags] == ["Boots"]
    assert (event.model, event.tagged_at, event.flags) == (MODEL, 77, ())


def test_event_id_is_a_function_of_event_listing_and_tagger() -> None:
    """The same input has the same id wherever it is read; another event, listing or tagger has another."""
    once, again, other = pipeline().process(
        [record(listing(event_id="e"), 1), record(listing(event_id="e"), 2), record(listing("Shoes", event_id="e"), 3)]
    )
    assert tags(once).event_id == tags(again).event_id != tags(other).event_id
    assert (
        len({event_id("e", "d", "f"), event_id("x", "d", "f"), event_id("e", "x", "f"), event_id("e", "d", "x")}) == 4
    )


def test_an_event_without_id_is_named_by_its_place() -> None:
    """topic/partition/offset stands in for a missing event id."""
    [output] = pipeline().process([record(listing(), offset=12)])
    assert tags(output).source_event_id == "product-created/0/12"


def test_a_deleted_listing_needs_no_model() -> None:
    """A deletion event comes out: no tags, no model, no model call; it keeps its id from one tagger to the next."""
    tagger = FakeTagger()
    [output] = pipeline(tagger).process([record(listing("", deleted=True, event_id="e"))])
    event = tags(output)
    assert (event.deleted, event.tags, event.model, tagger.calls) == (True, (), None, [])


def test_late_versions_are_flagged() -> None:
    """A version older than the newest seen of its product is tagged and flagged beside the tagger's own flags."""
    outputs = pipeline().process([record(listing(listing_version=version)) for version in (2, 1, 2)])
    outputs += pipeline().process([record(listing("long", listing_version=1))])
    assert [tags(output).flags for output in outputs] == [(), (STALE,), (), ("text_truncated",)]


@pytest.mark.parametrize(
    ("value", "reason", "field", "merchant"),
    [
        (None, "null_value", None, None),
        (b"\xff\x00", "undecodable", None, None),
        (b'{"title": "\xff"}', "undecodable", None, None),
        (listing(""), "invalid_listing", "title", "m"),
        (listing(description="x" * 300_000), "too_large", "description", "m"),
        (listing("raise"), "model_error", None, "m"),
        (listing("raise in prepare"), "model_error", None, "m"),
        (listing("nan"), "non_finite_scores", None, "m"),
    ],
)
def test_poison_costs_itself_only(value: bytes | None, reason: str, field: str | None, merchant: str | None) -> None:
    """A dead letter with the original bytes and a reason stands in the culprit's place; the others come out."""
    records = [record(listing(f"fine {offset}"), offset) for offset in range(7)]
    records[3] = record(value, 3)
    outputs = pipeline().process(records)
    dead = letter(outputs.pop(3))
    assert (dead.reason, dead.field, dead.merchant_id) == (reason, field, merchant)
    assert (dead.topic, dead.partition, dead.offset, dead.timestamp) == ("product-created", 0, 3, 1_000)
    assert (dead.key, dead.value, dead.truncated, dead.failed_at) == (b"k", value, False, 77)
    assert (dead.value_length, dead.value_sha256) == (
        len(value or b""),
        None if value is None else hashlib.sha256(value).hexdigest(),
    )
    assert [tags(output).source.offset for output in outputs] == [0, 1, 2, 4, 5, 6]


def test_only_allowed_headers_are_kept() -> None:
    """A dead letter carries the headers that the settings name and no others."""
    headers = (("traceparent", b"00-1"), ("authorization", b"secret"))
    [output] = pipeline().process([record(b"junk", headers=headers)])
    assert letter(output).headers == (("traceparent", b"00-1"),)


def test_a_tag_event_too_large_for_its_topic_is_a_dead_letter() -> None:
    """The rest of the batch comes out."""
    large, small = pipeline().process([record(listing("many tags")), record(listing())])
    assert letter(large).reason == "output_too_large"
    assert tags(small).tags


@pytest.mark.parametrize("limit", [1_000, 1_500, 4_096])
@pytest.mark.parametrize("key", [None, b"k", b"k" * 900, b"k" * 5_000])
def test_a_dead_letter_always_fits(limit: int, key: bytes | None) -> None:
    """However large the record, its letter fits: the head of the value, its length and its digest."""
    limit += 1_024  # room for the key beside the fixed fields
    value = b"\xff" + bytes(range(256)) * 40_000
    headers = (("traceparent", b"x" * 5_000),)
    [output] = pipeline(max_output_bytes=limit).process([record(value, key=key, headers=headers)])
    dead = letter(output)
    assert limit - 16 < len(output.value) + len(output.key or b"") <= limit
    assert dead.truncated
    assert dead.value is not None
    assert value.startswith(dead.value)
    assert (dead.value_length, dead.value_sha256) == (len(value), hashlib.sha256(value).hexdigest())


def test_a_failing_batch_is_split_until_the_culprit_stands_alone() -> None:
    """Sixteen listings with one culprit cost a call for each half on its way, not one for each listing."""
    tagger = FakeTagger()
    records = [record(listing("raise" if offset == 5 else "fine"), offset) for offset in range(16)]
    outputs = pipeline(tagger).process(records)
    assert [output.topic for output in outputs].count("product-tags-dlq") == 1
    assert tagger.calls == [16, 8, 4, 4, 2, 1, 1, 2, 8]


def test_each_listing_is_tagged_by_its_own_adapter() -> None:
    """Splitting a failing batch keeps listings and slots together; an event names what served it and by its
    fingerprint has its id; the flags of the serving are added."""
    tagger = FakeTagger()
    stages = pipeline(tagger)
    titles = ["long", "b", "raise", "d"]
    entries = stages.prepare([record(listing(title, product_id=title), at) for at, title in enumerate(titles)])
    models = [replace(MODEL, adapter=title, fingerprint=f"{at:064x}") for at, title in enumerate(titles)]
    flags = [("adapter_fallback",), (), (), ()]
    served = [
        entry._replace(served=Served(f"slot {model.adapter}", model, flag))
        for entry, model, flag in zip(entries, models, flags, strict=True)
        if isinstance(entry, Job)
    ]
    outputs = stages.encode(stages.tag(served))
    assert tagger.slots == [
        [f"slot {title}" for title in part] for part in (titles, titles[:2], titles[2:], titles[2:3], titles[3:])
    ]
    assert letter(outputs.pop(2)).reason == "model_error"
    events = [tags(output) for output in outputs]
    assert [event.model for event in events] == [models[0], models[1], models[3]]
    assert [event.flags for event in events] == [("text_truncated", "adapter_fallback"), (), ()]
    assert [event.event_id for event in events] == [
        event_id(event.source_event_id, job.listing.digest(), model.fingerprint)
        for event, job, model in zip(
            events, [served[0], served[1], served[3]], [models[0], models[1], models[3]], strict=True
        )
    ]


def test_device_failure_is_nobodys_fault() -> None:
    """It is neither split nor dead-lettered."""
    tagger = FakeTagger()
    with pytest.raises(DeviceError):
        pipeline(tagger).process([record(listing("device")), record(listing())])
    assert tagger.calls == [2]


def test_isolate_takes_a_wrong_number_of_results_for_a_failure() -> None:
    """Results that cannot be told apart are not handed out."""
    outcomes = isolate(lambda items: items[:1], ["a", "b", "c"])
    assert outcomes == ["a", "b", "c"]
    [error] = isolate(lambda items: [], ["a"])
    assert isinstance(error, RuntimeError)


def test_a_registry_that_is_gone_is_not_poison_and_can_be_tried_again() -> None:
    """`prepare` raises, remembers nothing of the batch, and comes out right the second time."""

    class Gone(Codec):
        gone = True

        def decode_listing(self, record: Record) -> Any:
            if self.gone and record.offset == 1:
                raise RegistryUnavailable("gone")
            return super().decode_listing(record)

    codec = Gone()
    stages = Pipeline(Settings(), codec, FakeTagger())
    records = [record(listing(listing_version=1), 0), record(listing(listing_version=2), 1)]
    with pytest.raises(RegistryUnavailable):
        stages.prepare(records)
    codec.gone = False
    assert [tags(output).flags for output in stages.process(records)] == [(), ()]
