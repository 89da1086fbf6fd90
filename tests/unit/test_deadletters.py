"""The guard against draining a topic into the dead letters."""

import pytest

from streamer.deadletters import ShareGuard
from streamer.errors import TooManyDeadLetters


def fill(guard: ShareGuard, dead: int, alive: int, merchants: tuple[str | None, ...]) -> None:
    """Some that came out, then dead letters of the merchants in turn."""
    for index in range(alive):
        guard.record(None, f"m{index}")
    for index in range(dead):
        guard.record("undecodable", merchants[index % len(merchants)])


def test_a_large_share_of_several_merchants_stops() -> None:
    """The message says how many, of how many, and why most of them."""
    with pytest.raises(TooManyDeadLetters, match=r"100 of the last 199 records .* undecodable"):
        fill(ShareGuard(0.5, 200, 50), dead=101, alive=99, merchants=("a", "b"))


def test_records_of_no_readable_merchant_count_as_everyones() -> None:
    """A topic of nothing but junk stops, although no merchant can be read."""
    with pytest.raises(TooManyDeadLetters):
        fill(ShareGuard(0.5, 200, 50), dead=50, alive=0, merchants=(None,))


@pytest.mark.parametrize(
    ("dead", "alive", "merchants"),
    [
        (49, 0, ("a", "b")),  # too few to tell
        (100, 100, ("a", "b")),  # not over half
        (200, 0, ("a",)),  # one merchant's trouble is his own
    ],
)
def test_less_does_not_stop(dead: int, alive: int, merchants: tuple[str | None, ...]) -> None:
    """At least the minimum, more than the share, of more than one merchant."""
    fill(ShareGuard(0.5, 200, 50), dead, alive, merchants)


def test_only_the_recent_records_count() -> None:
    """Dead letters that have left the window are forgotten, and their merchants with them."""
    guard = ShareGuard(0.5, 200, 50)
    fill(guard, dead=40, alive=0, merchants=("a", "b"))
    fill(guard, dead=0, alive=200, merchants=())
    fill(guard, dead=150, alive=0, merchants=("a",))
