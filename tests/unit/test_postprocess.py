import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taggen import postprocess
from taggen.adapter import Card, LabelType, TagType
from taggen.head import Answer, Span
from taggen.listing import Listing
from taggen.normalize import Rules
from taggen.tag import Evidence, Tag, Tagging
from taggen.text import clean
from taggen.windows import Prepared
from tests.unit.test_windows import HOSTILE_LISTINGS, TOKENIZERS, original_of, prepare

TAG_SET = (TagType("brand", "attribute"), TagType("function", "function", 0.6))


def card(*tags: TagType, labels: tuple[LabelType, ...] = ()) -> Card:
    """A card with these tags and labels."""
    return Card("a", "1", "*", "base", "f" * 64, tags, labels=labels)


def tagging(prepared: Prepared, *spans: Span) -> Tagging:
    """The tagging of a prepared listing by our own rules."""
    return postprocess.tagging(prepared, Answer(spans, ()), card(*TAG_SET), Rules())


def tags_of(listing: Listing, *spans: Span) -> tuple[Tag, ...]:
    """The tags of a listing that is read word by word."""
    return tagging(prepare(listing), *spans).tags


def test_mentions_of_one_value_are_one_tag() -> None:
    """They share a tag with all the evidence, the best mention's confidence and its wording."""
    listing = Listing("m", "p", 1, "NIKE shoe", description="red Nike shoe")
    # The stream: nike shoe | red nike shoe
    assert tags_of(listing, Span(1, 0, 1, 0.7), Span(1, 4, 5, 0.9)) == (
        Tag("brand", "Nike", "nike", 0.9, "attribute", (Evidence("title", 0, 4), Evidence("description", 4, 8))),
    )
    assert tags_of(listing, Span(1, 0, 1, 0.9), Span(1, 4, 5, 0.7))[0].value == "NIKE"


def test_a_span_below_its_tags_threshold_goes() -> None:
    """Each tag has its own threshold; a span that reaches it stays."""
    listing = Listing("m", "p", 1, "red water")
    assert tags_of(listing, Span(1, 0, 1, 0.49), Span(2, 1, 2, 0.59)) == ()
    assert [tag.value for tag in tags_of(listing, Span(1, 0, 1, 0.5), Span(2, 1, 2, 0.6))] == ["red", "water"]


def test_tags_come_in_the_tag_sets_order() -> None:
    """Then by their first evidence."""
    listing = Listing("m", "p", 1, "water red shoe")
    tags = tags_of(listing, Span(2, 0, 1, 0.9), Span(1, 1, 2, 0.8), Span(1, 2, 3, 0.9))
    assert [(tag.name, tag.value) for tag in tags] == [("brand", "red"), ("brand", "shoe"), ("function", "water")]


def test_a_label_of_the_listing_is_a_tag_without_evidence() -> None:
    """From its threshold on, behind the tags that words carry, as the card has them."""
    labels = (
        LabelType("use", "garden", "occasion", 0.6),
        LabelType("use", "home", "occasion", 0.3),
        LabelType("category", "shoes", "attribute"),
    )
    prepared = prepare(Listing("m", "p", 1, "nike shoe"))
    answer = Answer([Span(1, 0, 1, 0.7)], [0.59, 0.3, 0.9])
    out = postprocess.tagging(prepared, answer, card(*TAG_SET, labels=labels), Rules())
    assert out.tags[0].name == "brand"
    assert out.tags[1:] == (
        Tag("use", "home", "home", 0.3, "occasion", ()),
        Tag("category", "shoes", "shoes", 0.9, "attribute", ()),
    )


@pytest.mark.parametrize(("label", "confidence"), [(0.95, 0.95), (0.6, 0.7)])
def test_a_label_that_words_carry_too_is_one_tag(label: float, confidence: float) -> None:
    """With their evidence and wording, and the higher confidence of the two."""
    labels = (LabelType("brand", "nike", "attribute"),)
    prepared = prepare(Listing("m", "p", 1, "NIKE shoe"))
    answer = Answer([Span(1, 0, 1, 0.7)], [label])
    out = postprocess.tagging(prepared, answer, card(*TAG_SET, labels=labels), Rules())
    assert out.tags == (Tag("brand", "NIKE", "nike", confidence, "attribute", (Evidence("title", 0, 4),)),)


def test_a_label_that_must_not_be_published_is_withheld() -> None:
    """Whoever wrote the card."""
    labels = (LabelType("claim", "best in the world", "attribute"), LabelType("claim", "soft", "attribute"))
    prepared = prepare(Listing("m", "p", 1, "shoe"))
    out = postprocess.tagging(prepared, Answer((), [0.9, 0.9]), card(*TAG_SET, labels=labels), Rules())
    assert ([tag.value for tag in out.tags], out.flags) == (["soft"], ("claim_withheld",))


def test_punctuation_at_the_edges_is_not_evidence() -> None:
    """A span of punctuation alone is no tag; inside a value it stays."""
    listing = Listing("m", "p", 1, '"red-shoe" !')
    (tag,) = tags_of(listing, Span(1, 0, 5, 0.9), Span(2, 5, 6, 0.9))
    assert (tag.value, tag.evidence) == ("red-shoe", (Evidence("title", 1, 9),))


def test_a_piece_of_a_latin_word_is_widened_to_the_word() -> None:
    """A tokenizer cuts rare words; what stands beside digits, blanks and Chinese stays apart."""
    listing = Listing("m", "p", 1, "leakproof 防水leak")
    # One token a letter: l e a k p r o o f | 防水 unknown | l e a k
    (tag,) = tags_of(listing, Span(1, 0, 2, 0.9))
    assert (tag.value, tag.evidence) == ("leakproof", (Evidence("title", 0, 9),))
    (tag,) = tags_of(listing, Span(1, 11, 13, 0.9))
    assert tag.value == "leak"


@pytest.mark.parametrize(
    ("title", "value"),
    [
        ('27" ,', '27"'),
        ("6'.", "6'"),
        ("6+ (", "6+"),
        ("'S10+'", "S10+"),
        ("PA++++,", "PA++++"),
        ("U.S.A.", "U.S.A."),
        (".5.", ".5"),
        ("Co.", "Co"),
        ("'red'", "red"),
        ('"', None),
    ],
)
def test_inches_pluses_and_dots_of_abbreviations_and_fractions_are_part_of_a_value(
    title: str, value: str | None
) -> None:
    """Directly behind it; a quotation's or a sentence's end is not."""
    prepared = prepare(Listing("m", "p", 1, title))
    tags = tagging(prepared, Span(1, 0, len(prepared.ids), 0.9)).tags
    assert [tag.value for tag in tags] == ([value] if value else [])


@pytest.mark.parametrize(
    ("title", "tokens", "value"),
    [
        ("(red)", 3, "red"),
        ("red (water shoe)", 5, "red (water shoe)"),
        ("red (water shoe)", 4, "red (water shoe)"),
        ("[red] shoe]", 4, "[red] shoe"),
        ("red shoe)", 3, "red shoe"),
        ("(red shoe", 3, "red shoe"),
    ],
)
def test_a_bracket_belongs_to_a_value_that_holds_its_other_half(title: str, tokens: int, value: str) -> None:
    """Also where the head left the bracket out; brackets around the value are none of it."""
    prepared = prepare(Listing("m", "p", 1, title))
    (tag,) = tagging(prepared, Span(1, 0, tokens, 0.9)).tags
    assert tag.value == value


def test_mentions_of_one_value_in_other_words_are_one_tag() -> None:
    """They meet in the normalised form, with the wording of the best."""
    listing = Listing("m", "p", 1, "Navy 藏青")
    spans = [Span(1, 0, 4, 0.7), Span(1, 4, 6, 0.9)]
    color = card(TagType("color", "attribute"))
    (tag,) = postprocess.tagging(prepare(listing), Answer(spans, ()), color, Rules()).tags
    assert (tag.value, tag.normalized, tag.confidence) == ("藏青", "navy", 0.9)
    assert tag.evidence == (Evidence("title", 0, 4), Evidence("title", 5, 7))


def test_words_may_be_of_several_tags() -> None:
    """Each has its own value, within another's or across its edge."""
    spans = [Span(1, 0, 2, 0.7), Span(2, 1, 3, 0.9), Span(1, 3, 4, 0.8)]
    tags = tags_of(Listing("m", "p", 1, "red water shoe nike"), *spans)
    assert [(tag.name, tag.value) for tag in tags] == [
        ("brand", "red water"),
        ("brand", "nike"),
        ("function", "water shoe"),
    ]


@pytest.mark.parametrize(
    ("title", "first", "last", "flag"),
    [
        ("best in the world", 0, None, "claim_withheld"),
        ("13812345678", 0, None, "personal_data_withheld"),
        ("john@example.com", 0, 1, "personal_data_withheld"),
        ("john@example.com", -1, None, "personal_data_withheld"),
    ],
)
def test_what_is_withheld_is_flagged(title: str, first: int, last: int | None, flag: str) -> None:
    """It is no tag, also where the span is but a piece of an address; another tag comes out all the same."""
    prepared = prepare(Listing("m", "p", 1, title, description="red shoe"))
    title_tokens = [at for at, source in enumerate(prepared.sources) if source == 0]
    red = next(at for at, source in enumerate(prepared.sources) if source == 1)
    chosen = title_tokens[first:last]
    found = tagging(prepared, Span(2, chosen[0], chosen[-1] + 1, 0.9), Span(1, red, red + 1, 0.9))
    assert [tag.value for tag in found.tags] == ["red"]
    assert found.flags == (flag,)


def test_a_value_beside_personal_data_stays() -> None:
    """Chinese needs no blank before a number."""
    prepared = prepare(Listing("m", "p", 1, "防水13812345678"), TOKENIZERS[2])
    (tag,) = tagging(prepared, Span(2, 0, prepared.starts.index(2), 0.9)).tags
    assert tag.value == "防水"


def test_one_place_is_one_evidence() -> None:
    """Two spans in one character, which stands for several, cut the same words out."""
    prepared = prepare(Listing("m", "p", 1, "㎏"), TOKENIZERS[2])  # k, g
    (tag,) = tagging(prepared, Span(1, 0, 1, 0.9), Span(1, 1, 2, 0.9)).tags
    assert (tag.value, tag.evidence) == ("kg", (Evidence("title", 0, 1),))


@given(HOSTILE_LISTINGS, st.sampled_from(TOKENIZERS), st.data())
@settings(max_examples=200)
def test_evidence_cuts_the_value_out_of_the_original(listing: Listing, tokenizer: object, data: st.DataObject) -> None:
    """clean(original[start:end]) == value for every tag of hostile text, wherever the spans are."""
    prepared = prepare(listing, tokenizer)
    bounds = [at for at, source in enumerate(prepared.sources) if source >= 0]
    if not bounds:
        return
    first = data.draw(st.sampled_from(bounds))
    last = data.draw(st.sampled_from([at for at in bounds if prepared.sources[at] == prepared.sources[first]]))
    span = Span(1, min(first, last), max(first, last) + 1, 0.9)
    for tag in tagging(prepared, span).tags:
        assert tag.normalized
        for evidence in tag.evidence:
            assert clean(original_of(listing)(evidence.field)[evidence.start : evidence.end]) == tag.value
