import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggen.listing import MAX_TEXT_CHARS, Listing
from taggen.text import MAX_CLEAN_CHARS, MAX_LABEL_CHARS, CleanText, clean, fields

_PIECES = (
    "防水 , 、 K ½ A4 ﷺ 각 ㎏ ﬁ ¨ 👩\u200d🚀 e\u0301 \u0301 \u1100\u1161\u11a8 \u200b \u00ad & < > "
    "<b> </b> <br/> <!-- --> <script> </script> &amp; &nbsp; &#x41; &lt; &bogus;"
)
HOSTILE = st.lists(
    st.one_of(st.sampled_from([*_PIECES.split(" "), "<p class='x'>", " ", "  ", "\n"]), st.text(max_size=6)),
    max_size=20,
).map("".join)


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("wa<b>ter</b>", "water"),
        ("<p>red</p><p>blue</p>", "red blue"),
        ("a &amp; b&nbsp;c", "a & b c"),
        ("1 &lt; 2", "1 < 2"),
        ("A4,防水", "A4,防水"),
        ("x <!-- no --> y<script>alert(1)</script>z", "x yz"),
        ("3 < 5 > 2", "3 < 5 > 2"),
        (" \t a \u200b\n b ", "a b"),
        ("caf\u0065\u0301", "café"),
        ("", ""),
        ("&#0;", "\ufffd"),
    ],
)
def test_cleaning(raw: str, cleaned: str) -> None:
    """Mark-up goes, entities and full-width forms are resolved, blanks are folded."""
    assert clean(raw) == cleaned


@given(HOSTILE, st.data())
def test_a_span_cut_from_the_original_cleans_to_its_value(raw: str, data: st.DataObject) -> None:
    """clean(raw[start:end]) == value for every span of the clean text, whatever the mark-up and the Unicode."""
    text = CleanText(raw)
    places = [i for i, char in enumerate(text.text) if char != " "]
    if not places:
        return
    start = data.draw(st.sampled_from(places))
    end = data.draw(st.sampled_from([i for i in places if i >= start])) + 1
    value, raw_start, raw_end = text.locate(start, end)
    assert clean(raw[raw_start:raw_end]) == value
    assert text.text[start:end] in value


@given(HOSTILE, st.integers(1, 30))
def test_what_is_cut_at_a_limit_still_finds_its_way(raw: str, limit: int) -> None:
    """The last words before a limit cut themselves out of the original like all others."""
    text = CleanText(raw, limit)
    assert len(text.text) <= limit
    assert clean(raw).startswith(text.text)
    assert text.truncated or text.text == clean(raw)
    if text.text:
        value, start, end = text.locate(0, len(text.text))
        assert clean(raw[start:end]) == value == text.text


@given(HOSTILE)
def test_clean_text_is_folded_and_normal_where_no_mark_up_splits_it(raw: str) -> None:
    """Clean text has no edge or double blanks; without mark-up and invisible characters it is NFKC of the original."""
    cleaned = clean(raw)
    assert cleaned == " ".join(cleaned.split(" ")).strip(" ")
    assert "  " not in cleaned


def test_mark_up_inside_a_word_keeps_its_place() -> None:
    """The evidence of a word with mark-up inside covers the mark-up."""
    raw = "<i>very wa<b>ter</b>proof</i> shoe"
    text = CleanText(raw)
    start = text.text.index("waterproof")
    value, raw_start, raw_end = text.locate(start, start + len("waterproof"))
    assert (value, raw[raw_start:raw_end]) == ("waterproof", "wa<b>ter</b>proof")


def test_a_field_that_explodes_under_nfkc_is_bounded() -> None:
    """What is read of one field is bounded, and the field says that it was longer."""
    text = CleanText("\ufdfa" * 10_000)
    assert text.truncated
    assert len(text.text) <= MAX_CLEAN_CHARS


def test_fields_come_in_the_models_order() -> None:
    """Title, attributes with their key as a label, description; empty ones are left out."""
    listing = Listing("m", "p", 1, "Shoe", description="<p>Soft</p>", attributes={"Colour": "Red", "Empty": " "})
    assert [(f.name, f.text) for f in fields(listing)] == [
        ("title", "Shoe"),
        ("attributes.Colour", "Colour: Red"),
        ("description", "Soft"),
    ]


def test_nfkc_matches_unicodedata_on_plain_text() -> None:
    """Segment-wise NFKC equals NFKC of the whole for text without mark-up."""
    raw = "KAFKA ½ ﬁne 男子运动鞋,㎏ 각 café Ω"
    assert clean(raw) == unicodedata.normalize("NFKC", raw)


@pytest.mark.parametrize(
    "piece",
    ["<!--", "<script>", "<style>x", "</script ", "<p ", "<a", "&#", "\u0301\u0323", "  ", "\u200b", "<b>", "ﷺ"],
)
def test_hostile_text_of_the_largest_size_is_read_in_time(piece: str) -> None:
    """Nothing repeated makes a listing's cleaning quadratic: a second at most, not minutes."""
    raw = "a" + piece * (MAX_TEXT_CHARS // len(piece))
    started = time.process_time()
    CleanText(raw)
    assert time.process_time() - started < 2


def test_a_listing_that_explodes_under_nfkc_is_bounded() -> None:
    """All its fields together are; those behind the bound say that they are not read to their end."""
    attributes = {"\ufdfa" * 500 + str(number): "\ufdfa" * 500 for number in range(250)}
    listing = Listing("m", "p", 1, "Shoe", description="\ufdfa" * 9, attributes=attributes)
    found = fields(listing)
    assert sum(len(field.text) for field in found) < MAX_CLEAN_CHARS + 251 * (MAX_LABEL_CHARS + 3 + 64)
    assert not found[0].clean.truncated
    assert all(field.clean.truncated for field in found[100:])
