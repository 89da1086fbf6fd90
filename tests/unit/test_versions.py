"""The memory of newest listing versions."""

from streamer.versions import Versions


def test_only_an_older_version_is_stale() -> None:
    """First, equal and newer ones are not; a late one does not make the memory forget the newest."""
    versions = Versions(10)
    seen = [versions.observe("m", "p", version) for version in (3, 3, 2, 4, 3)]
    assert seen == [False, False, True, False, True]


def test_products_of_two_merchants_are_two() -> None:
    """The product id is unique within its merchant only."""
    versions = Versions(10)
    versions.observe("a", "p", 5)
    assert not versions.observe("b", "p", 1)


def test_memory_is_bounded_and_keeps_the_recently_seen() -> None:
    """The product that was not seen for the longest time is forgotten first; what is forgotten counts as new."""
    versions = Versions(2)
    versions.observe("m", "a", 5)
    versions.observe("m", "b", 5)
    versions.observe("m", "a", 5)
    versions.observe("m", "c", 5)
    assert len(versions) == 2
    assert versions.observe("m", "a", 4)
    assert not versions.observe("m", "b", 4)
