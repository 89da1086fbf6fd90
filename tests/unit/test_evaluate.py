import pytest

from taggen import corpus, evaluate, tagger
from taggen.corpus import Labelled, Span
from taggen.evaluate import Score
from taggen.listing import Listing
from taggen.tag import Evidence, Tag, Tagging
from tests.tiny import Tiny


def labelled(locale: str, *spans: Span) -> Labelled:
    """A listing with some marks."""
    return Labelled(Listing("m", "p", 1, "Nike red shoe", locale=locale), spans)


def tagging(name: str, *places: tuple[int, int]) -> Tagging:
    """A tag with evidence in the title."""
    evidence = tuple(Evidence("title", *place) for place in places)
    return Tagging((Tag(name, "x", "x", 0.9, "attribute", evidence),))


def test_a_mention_is_right_when_field_span_and_tag_are() -> None:
    """Half a span is wrong twice: one mention missed, one found that is none."""
    items = [
        labelled("en-US", Span("title", 0, 4, "brand"), Span("title", 5, 8, "color")),
        labelled("zh-CN", Span("title", 0, 4, "brand"), Span("description", 0, 4, "brand")),
    ]
    taggings = [tagging("brand", (0, 4), (5, 8)), tagging("brand", (0, 3))]
    assert evaluate.by_language(items, taggings) == {
        "all": {"brand": Score(3, 3, 1), "color": Score(1, 0, 0), "micro": Score(4, 3, 1)},
        "en": {"brand": Score(1, 2, 1), "color": Score(1, 0, 0), "micro": Score(2, 2, 1)},
        "zh": {"brand": Score(2, 1, 0), "micro": Score(2, 1, 0)},
    }


def test_the_figures_follow_from_the_counts() -> None:
    """In percent, and 0 where there is nothing to divide by."""
    assert Score(4, 3, 1).rounded() == {"precision": 33.3, "recall": 25.0, "f1": 28.6, "marked": 4}
    assert Score(0, 0, 0).rounded() == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "marked": 0}
    assert evaluate.card({"en": {"micro": Score(1, 1, 1)}})["en"]["micro"]["f1"] == 100.0


def test_labels_are_scored_by_name_where_something_is_known() -> None:
    """A value found that the listing does not have is wrong; of a name that it says nothing of, nothing is scored."""
    listing = Listing("m", "p", 1, "shoe")
    items = [
        Labelled(listing, (), labels={"use": ("home", "work"), "kind": ()}),
        Labelled(listing, (), labels={"use": ("gift",)}),
        Labelled(listing, ()),
    ]
    tags = [Tag(name, value, value, 0.9, "attribute", ()) for name, value in (("use", "home"), ("kind", "clog"))]
    assert evaluate.label_score(items, [Tagging(tuple(tags))] * 3) == {
        "kind": Score(0, 1, 0),
        "use": Score(3, 2, 1),
        "micro": Score(3, 3, 1),
    }
    assert evaluate.label_score(items[2:], [Tagging(())]) == {}


def test_what_is_read_includes_every_label(tiny: Tiny) -> None:
    """With its probability, whatever the threshold; a tag is one that reaches it."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    outputs = evaluate.read_all(served, corpus.held_out()[:5])
    for output in outputs:
        assert output.labels.keys() == {("use", "garden"), ("use", "travel")}
        kept = {(tag.name, tag.normalized): tag.confidence for tag in output.tagging.tags if not tag.evidence}
        assert kept == {label: sure for label, sure in output.labels.items() if sure >= 0.5}


def test_all_listings_are_tagged_in_their_order(tiny: Tiny) -> None:
    """Whatever the size of the batches."""
    served = tagger.load(str(tiny.base), tiny.adapter, device="cpu")
    items = corpus.held_out()[:10]
    assert evaluate.tag_all(served, items, 3) == evaluate.tag_all(served, items)


def test_marks_and_taggings_go_in_pairs() -> None:
    """A tagging too few is an error, not a better score."""
    with pytest.raises(ValueError, match="shorter"):
        evaluate.score([labelled("en")], [])
