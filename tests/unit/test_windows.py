from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from taggen import windows
from taggen.listing import Listing
from taggen.text import clean
from taggen.windows import (
    BLANK,
    BUDGET_TOKENS,
    NO_FIELD,
    OVERLAP_TOKENS,
    PADDING_MULTIPLE,
    TRUNCATED,
    WINDOW_TOKENS,
    Prepared,
    Special,
)
from tests import tokenizers
from tests.unit.test_text import HOSTILE

SPECIAL = Special(start=2, separator=3, padding=0)
TOKENIZERS = [tokenizers.word_piece(), tokenizers.unigram(), tokenizers.byte_level()]
HOSTILE_LISTINGS = st.builds(
    lambda title, description, attributes: Listing("m", "p", 1, title, description=description, attributes=attributes),
    HOSTILE,
    HOSTILE,
    st.dictionaries(HOSTILE, HOSTILE, max_size=2),
)


def prepare(listing: Listing, tokenizer: Tokenizer = TOKENIZERS[0]) -> Prepared:
    """One listing, ready for the model."""
    return windows.prepare([listing], tokenizer, SPECIAL)[0]


def words(count: int) -> Listing:
    """A listing whose stream has so many tokens."""
    return Listing("m", "p", 1, " ".join(["red"] * count))


@pytest.mark.parametrize("tokens", [0, 1, 253, 254, 255, 300, 500, 1_000, BUDGET_TOKENS, BUDGET_TOKENS + 1, 9_000])
def test_every_token_is_answered_once(tokens: int) -> None:
    """The kept parts of a stream's windows cover it without a gap, each with tokens around it in its window."""
    prepared = prepare(words(tokens))
    assert len(prepared.ids) == min(tokens, BUDGET_TOKENS)
    kept = [at for window in prepared.windows for at in range(window.kept_first, window.kept_last)]
    assert kept == list(range(len(prepared.ids)))
    for window in prepared.windows:
        assert window.last - window.first + 2 <= WINDOW_TOKENS
        assert window.first <= window.kept_first <= window.kept_last <= window.last
        assert window.kept_first - window.first >= OVERLAP_TOKENS // 2 or window.first == 0
        assert window.last - window.kept_last >= OVERLAP_TOKENS // 2 or window.last == len(prepared.ids)
    for before, after in zip(prepared.windows, prepared.windows[1:], strict=False):
        assert before.last - after.first == OVERLAP_TOKENS


@pytest.mark.parametrize("tokens", [1, 5, 6, 13, 14, 200, 253, 254, 700])
def test_the_padded_length_is_the_rows_own(tokens: int) -> None:
    """A row is padded to a multiple, alone as beside others, and there is always some padding."""
    alone = prepare(words(tokens))
    beside = windows.prepare([words(3), words(tokens), words(900)], TOKENIZERS[0], SPECIAL)[1]
    assert [window.padded for window in alone.windows] == [window.padded for window in beside.windows]
    assert alone.tokens == sum(window.padded for window in alone.windows)
    for window in alone.windows:
        assert window.padded % PADDING_MULTIPLE == 0
        assert 1 <= window.padded - (window.last - window.first + 2) <= PADDING_MULTIPLE


def test_only_what_is_beyond_the_budget_is_cut_and_flagged() -> None:
    """A listing that fills the budget is whole; one token more, and it says so."""
    assert prepare(words(BUDGET_TOKENS)).flags == ()
    assert prepare(words(BUDGET_TOKENS + 1)).flags == (TRUNCATED,)


def test_a_field_that_was_not_read_to_its_end_is_flagged() -> None:
    """Text that explodes under NFKC is cut before it is tokenised: the listing says so too."""
    assert prepare(Listing("m", "p", 1, "Shoe", description="\ufdfa" * 10_000)).flags == (TRUNCATED,)


def test_fields_stand_apart_and_labels_carry_no_tags() -> None:
    """A separator stands between fields; an attribute's key is read, but its tokens belong to no field."""
    prepared = prepare(Listing("m", "p", 1, "red shoe", description="soft", attributes={"Colour": "blue"}))
    assert prepared.ids == [
        *TOKENIZERS[0].encode("red shoe", add_special_tokens=False).ids,
        SPECIAL.separator,
        *TOKENIZERS[0].encode("colour: blue", add_special_tokens=False).ids,
        SPECIAL.separator,
        *TOKENIZERS[0].encode("soft", add_special_tokens=False).ids,
    ]
    assert prepared.sources == [0, 0, NO_FIELD, NO_FIELD, NO_FIELD, 1, NO_FIELD, 2]
    assert (prepared.starts[5], prepared.ends[5]) == (0, 4)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_offsets_do_not_hold_the_blank_before_a_word(tokenizer: Tokenizer) -> None:
    """SentencePiece and byte-level tokenizers count the blank before a word into its token; we do not."""
    prepared = prepare(Listing("m", "p", 1, "a red shoe", attributes={"Colour": "red"}), tokenizer)
    places = zip(prepared.sources, prepared.starts, prepared.ends, strict=True)
    read = [prepared.fields[source].clean.text[start:end] for source, start, end in places if source >= 0]
    assert {"red", "shoe"} <= set(read)
    assert not any(" " in word for word in read)
    assert read.count("red") == 2


def test_a_blank_that_is_a_token_of_its_own_is_told_from_separators() -> None:
    """SentencePiece may make a token of the blank before a rare word: it has no words, but is inside its field."""
    prepared = prepare(Listing("m", "p", 1, "red 7"), TOKENIZERS[1])
    assert prepared.sources == [0, BLANK, 0]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_token_has_its_place_in_the_original(tokenizer: Tokenizer) -> None:
    """clean(original[start:end]) == value for every token of hostile text, in every field."""

    @given(HOSTILE_LISTINGS)
    @settings(max_examples=60)
    def check(listing: Listing) -> None:
        prepared = prepare(listing, tokenizer)
        original = original_of(listing)
        columns = (prepared.ids, prepared.sources, prepared.starts, prepared.ends)
        for _, source, start, end in zip(*columns, strict=True):
            if source >= 0:
                field = prepared.fields[source]
                value, raw_start, raw_end = field.clean.locate(start, end)
                assert clean(original(field.name)[raw_start:raw_end]) == value
                assert value

    check()


def original_of(listing: Listing) -> Callable[[str], str]:
    """The listing's fields as its merchant wrote them, by the names that evidence uses."""
    return lambda name: (
        listing.attributes[name.removeprefix("attributes.")]
        if name.startswith("attributes.")
        else getattr(listing, name) or ""
    )
