"""Our schemas in a real Schema Registry: registered under their subjects, at levels that are enforced."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

import schemas
from streamer.errors import RegistryError, RegistryUnavailable
from streamer.registry import Registry
from streamer.settings import Settings, SubjectNaming
from streamer.subjects import INPUTS, OUTPUTS, check, register, subject_name, subjects
from tests.apicurio import Apicurio

pytestmark = pytest.mark.registry


@pytest.fixture
def settings(unique: Callable[[str], str]) -> Settings:
    """Topics of this test's own."""
    return Settings(
        source_topics=(unique("created"), unique("updated")),
        tags_topic=unique("tags"),
        dead_letter_topic=unique("dlq"),
        adapters_topic=unique("adapters"),
        adapter_status_topic=unique("status"),
    )


def grown(name: str, /, **field: Any) -> dict[str, Any]:
    """One of our schemas with a new field."""
    schema = copy.deepcopy(schemas.load(name))
    schema["fields"].append({"name": "new", "type": "string"} | field)
    return schema


def test_register_and_check(registry: Apicurio, settings: Settings) -> None:
    """What check calls new is registered by register, under every subject, at its level; again changes nothing."""
    client, wanted = Registry(registry.url), subjects(settings)
    assert {(one.state, one.problem) for one in check(client, wanted)} == {("new", None)}
    first = list(register(client, wanted))
    assert [one.subject for one in first] == wanted
    assert {(one.state, one.problem) for one in first} == {("registered", None)}
    assert list(register(Registry(registry.url), wanted)) == first
    assert list(check(Registry(registry.url), wanted)) == first
    assert {name: client.level(name) for name, *_ in wanted} == {name: level for name, _, level in wanted}


def test_levels_are_enforced(registry: Apicurio, settings: Settings) -> None:
    """Inputs: a new field needs a default, an old one may go. Outputs: neither side may need what the other lacks. Both
    against every version that was ever there."""
    client, wanted = Registry(registry.url), subjects(settings)
    list(register(client, wanted))
    created, tags = wanted[0].name, wanted[2].name
    assert (wanted[0].level, wanted[2].level) == (INPUTS, OUTPUTS)
    for subject, schema in ((created, grown(schemas.LISTING)), (tags, grown(schemas.TAGS))):
        assert not client.compatible(subject, schema)
        with pytest.raises(RegistryError, match=r"409 for subject .* Incompatible artifact.*new at") as refused:
            client.register(subject, schema)
        assert not isinstance(refused.value, RegistryUnavailable)
    client.register(created, grown(schemas.LISTING, default=""))
    shorter = copy.deepcopy(schemas.load(schemas.LISTING))
    shorter["fields"] = [field for field in shorter["fields"] if field["name"] != "title"]
    assert client.compatible(created, shorter)
    shorter = copy.deepcopy(schemas.load(schemas.TAGS))
    shorter["fields"] = [field for field in shorter["fields"] if field["name"] != "product_id"]
    assert not client.compatible(tags, shorter)
    client.register(tags, grown(schemas.TAGS, default=""))
    client.register(tags, grown(schemas.TAGS, name="other", default=""))
    assert not client.compatible(tags, grown(schemas.TAGS, type="long", default=0))  # with the one before the newest


def test_a_subject_that_lost_its_level_is_found(registry: Apicurio, settings: Settings) -> None:
    """Somebody changed it: check says so, register sets it again."""
    client, wanted = Registry(registry.url), subjects(settings)
    list(register(client, wanted))
    client.set_level(wanted[2].name, "NONE")
    problems = [one.problem for one in check(client, wanted)]
    assert problems == [None, None, "its level is NONE, and should be FULL_TRANSITIVE", None, None, None]
    list(register(client, wanted))
    assert {one.problem for one in check(client, wanted)} == {None}


@pytest.mark.parametrize(
    ("naming", "expected"),
    [
        ("topic", "tags-value"),
        ("record", "stream.taggen.ProductTags"),
        ("topic_record", "tags-stream.taggen.ProductTags"),
    ],
)
def test_names(naming: SubjectNaming, expected: str) -> None:
    """Confluent's three strategies."""
    assert subject_name(naming, "tags", schemas.TAGS) == expected
    settings = Settings(tags_topic="tags", subject_naming=naming)
    assert expected in [subject.name for subject in subjects(settings)]


def test_each_subject_once(tmp_path: Any) -> None:
    """By record, both source topics share one; with a mapping their subjects are not ours."""
    assert len(subjects(Settings())) == 6
    assert len(subjects(Settings(subject_naming="record"))) == 5
    assert len(subjects(Settings(mapping=tmp_path / "mapping.toml"))) == 4
