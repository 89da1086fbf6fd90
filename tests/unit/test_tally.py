from collections import Counter

from streamer.tally import Changes, Tally


def test_tallies_add_up() -> None:
    """Every count of one goes into the other, by reason and by tag name too."""
    one = Tally(1, 2, 3, Counter(undecodable=1), 4, 5, 6, 7, {"colour": Changes(1, 2, 3), "size": Changes(added=1)})
    other = Tally(10, 20, 30, Counter(undecodable=1, too_large=2), 40, 50, 60, 70, {"colour": Changes(10, 20, 30)})
    one.add(other)
    assert one == Tally(
        11,
        22,
        33,
        Counter(undecodable=2, too_large=2),
        44,
        55,
        66,
        77,
        {"colour": Changes(11, 22, 33), "size": Changes(added=1)},
    )
    assert other.tags == {"colour": Changes(10, 20, 30)}
