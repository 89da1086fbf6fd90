from taggen import compare, confusion
from taggen.corpus import Labelled, Span
from taggen.listing import Listing
from taggen.tag import Evidence, Tag, Tagging

GOGGLES = Labelled(
    Listing("m", "p", 1, "polycarbonate goggles"),
    (Span("title", 0, 13, "material"), Span("title", 0, 13, "optics")),
)


def tagging(*places: tuple[str, int, int]) -> Tagging:
    """Tags of these names, with their places in the title."""
    return Tagging(
        tuple(Tag(name, "x", "x", 0.9, "attribute", (Evidence("title", first, end),)) for name, first, end in places)
    )


def test_a_missed_tag_is_not_taken_for_what_is_right_on_the_same_words() -> None:
    """Words may carry several tags: one that is found rightly is not there instead of another."""
    (missed,) = confusion.worst([GOGGLES], [tagging(("optics", 0, 13))])
    assert (missed.tag, missed.missed, missed.taken_for) == ("material", 1, {"nothing": 1})
    (only,) = compare.compare(
        [GOGGLES], [tagging(("material", 0, 13), ("optics", 0, 13))], [tagging(("optics", 0, 13))]
    ).gained
    assert (only.marked, only.found) == ("material", "nothing")


def test_a_mistake_is_taken_for_what_stands_there_instead() -> None:
    """Another tag, or other bounds of the same; and the other way round, what is marked there."""
    by_tag = {one.tag: one for one in confusion.worst([GOGGLES], [tagging(("optics", 4, 13), ("brand", 0, 13))])}
    assert by_tag["optics"].taken_for == {"other bounds": 1}
    assert by_tag["material"].taken_for == {"brand": 1}
    assert by_tag["optics"].taken_from == {"other bounds": 1}
    assert by_tag["brand"].taken_from.keys() <= {"material", "optics"}
