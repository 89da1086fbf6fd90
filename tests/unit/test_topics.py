"""The topics of the service."""

from streamer import topics
from streamer.settings import Settings
from streamer.subjects import subjects


def test_newest_tags_are_optional() -> None:
    """Their topic and its subject are there when a setting names it: compacted, nothing in it expires, as many
    partitions as the tag events have."""
    plain, named = Settings(), Settings(latest_topic="newest")
    assert {one.name for one in topics.wanted(named, 3)} - {one.name for one in topics.wanted(plain, 3)} == {"newest"}
    assert [one.name for one in subjects(named) if one not in subjects(plain)] == ["newest-value"]
    (topic,) = [one for one in topics.wanted(named, 3) if one.name == "newest"]
    assert topic.partitions == 3
    assert topic.settings["cleanup.policy"] == "compact"
    assert not {"retention.ms", "retention.bytes"} & topic.settings.keys()
