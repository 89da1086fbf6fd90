import random
from dataclasses import replace
from itertools import pairwise

import pytest
from torch import Tensor

from taggen import batches, corpus, windows
from taggen.base import Base, load_base
from taggen.batches import IGNORED
from taggen.corpus import Labelled, Span
from taggen.head import BEGINS, GOES_ON
from taggen.listing import Listing
from taggen.windows import Prepared
from tests.tiny import Tiny

NUMBERS = {tag: number for number, tag in enumerate(corpus.TAGS, 1)}

Labels = dict[str, int] | None  # what the tags do that a token carries; None: nobody knows


@pytest.fixture(scope="module")
def base(tiny: Tiny) -> Base:
    """The tiny base, for what changes nothing of it."""
    return load_base(str(tiny.base))


def labels_of(item: Labelled, base: Base) -> list[Labels]:
    """The labels of the listing's tokens."""
    (prepared,) = windows.prepare([item.listing], base.tokenizer, base.special)
    labels, _ = batches.token_labels(item, prepared, NUMBERS)
    return told(labels)


def told(labels: Tensor) -> list[Labels]:
    """Labels [tokens, K] by name."""
    return [
        None if IGNORED in token else {tag: token[number - 1] for tag, number in NUMBERS.items() if token[number - 1]}
        for token in labels.tolist()
    ]


def test_tokens_are_labelled_by_the_span_that_holds_most_of_them(base: Base) -> None:
    """The first begins, the next go on; a neighbouring span of the same tag begins anew; separators are not taught, and
    of a partial listing only what is marked."""
    listing = Listing("m", "p", 1, "nike shoe red blue", description="red", attributes={"Colour": "black"})
    spans = (
        Span("title", 0, 9, "brand"),
        Span("title", 10, 13, "color"),
        Span("title", 14, 18, "color"),
        Span("description", 0, 3, "color"),
    )
    # nike shoe red blue | colour : black | red
    assert labels_of(Labelled(listing, spans), base) == [
        *({"brand": BEGINS}, {"brand": GOES_ON}, {"color": BEGINS}, {"color": BEGINS}, None),
        *(None, None, {}, None),
        {"color": BEGINS},
    ]
    assert labels_of(Labelled(listing, spans, partial=True), base)[-3:] == [None, None, {"color": BEGINS}]


def test_a_tag_can_go_on_behind_a_token_of_the_field_that_carries_it(base: Base) -> None:
    """Whether it does or not; never into another field."""
    listing = Listing("m", "p", 1, "nike shoe red blue", description="red", attributes={"Colour": "black"})
    spans = (Span("title", 0, 9, "brand"), Span("title", 14, 18, "color"), Span("attributes.Colour", 0, 5, "color"))
    (prepared,) = windows.prepare([listing], base.tokenizer, base.special)
    _, open_ = batches.token_labels(Labelled(listing, spans), prepared, NUMBERS)
    at = [{tag for tag, number in NUMBERS.items() if token[number - 1]} for token in open_.tolist()]
    assert at == [set(), {"brand"}, {"brand"}, *[set[str]()] * 7]


def test_a_token_has_the_labels_of_all_its_spans(base: Base) -> None:
    """One within another, and two that share a word."""
    listing = Listing("m", "p", 1, "nike red shoe blue")
    spans = (Span("title", 0, 13, "product_type"), Span("title", 5, 8, "color"), Span("title", 9, 18, "style"))
    assert labels_of(Labelled(listing, spans), base) == [
        {"product_type": BEGINS},
        {"product_type": GOES_ON, "color": BEGINS},
        {"product_type": GOES_ON, "style": BEGINS},
        {"style": GOES_ON},
    ]


@pytest.mark.parametrize(("end", "label"), [(1, {}), *((end, {"brand": BEGINS}) for end in (2, 3, 4))])
def test_a_token_that_straddles_an_edge_goes_with_its_half(end: int, label: Labels, base: Base) -> None:
    """A token belongs to the span that holds at least half of its characters in the original."""
    item = Labelled(Listing("m", "p", 1, "nike"), (Span("title", 0, end, "brand"),))
    assert labels_of(item, base) == [label]


def test_labels_find_their_way_through_mark_up(base: Base) -> None:
    """Spans are in the original, tokens in the clean text."""
    title = "<i>Ni<b>ke</b></i> &amp; red"
    item = Labelled(Listing("m", "p", 1, title), (Span("title", 3, 14, "brand"), Span("title", 25, 28, "color")))
    assert labels_of(item, base) == [{"brand": BEGINS}, {}, {"color": BEGINS}]


def test_rows_of_a_batch_line_up(base: Base) -> None:
    """Ids, mask and labels of a window stand in one row; padding and framing tokens are not taught."""
    item = Labelled(Listing("m", "p", 1, "nike red"), (Span("title", 0, 4, "brand"),))
    long = replace(item, listing=Listing("m", "p", 1, "nike " + "red " * 300))
    listings = [(one, windows.prepare([one.listing], base.tokenizer, base.special)[0]) for one in (item, long)]
    ids, mask, labels, open_, of, _ = batches.collate(listings, NUMBERS, (), base.special)
    assert ids.shape == mask.shape == labels.shape[:2] == (3, max(window.padded for window in listings[1][1].windows))
    special = base.special
    nike, red = listings[0][1].ids
    assert ids[0, :5].tolist() == [special.start, nike, red, special.separator, special.padding]
    assert mask.sum(-1).tolist() == [4, 256, 301 - 254 + windows.OVERLAP_TOKENS + 2]
    assert told(labels[0, :5]) == [None, {"brand": BEGINS}, {}, None, None]
    assert (labels[~mask] == IGNORED).all()
    assert open_.nonzero().tolist() == [[row, 2, NUMBERS["brand"] - 1] for row in (0, 1)]
    assert of.tolist() == [0, 1, 1]


def test_a_listing_is_taught_the_labels_of_known_names() -> None:
    """A name with values says that it has no others; of a name that is not there nothing is known."""
    listing = Listing("m", "p", 1, "nike shoe")
    some = Labelled(listing, (), labels={"use": ("home", "work"), "kind": ()})
    labels = [("use", "home"), ("use", "travel"), ("kind", "clog"), ("season", "summer")]
    targets = batches.label_targets([some, Labelled(listing, ())], labels)
    assert targets.tolist() == [[1, 0, 0, IGNORED], [IGNORED] * 4]
    assert batches.label_targets([some], ()).shape == (1, 0)


def listings_of(epoch: list[list[tuple[Labelled, Prepared]]]) -> list[list[Labelled]]:
    """The varied listings alone: what is prepared has no equality."""
    return [[item for item, _ in batch] for batch in epoch]


def test_an_epoch_holds_every_listing_once(base: Base) -> None:
    """In batches of the size asked for, similar lengths together; the same chances give the same epoch."""
    items = corpus.held_out()
    augmenter = batches.Augmenter(items)
    one, same, other = (
        batches.epoch(items, base, augmenter, 7, random.Random(seed))  # noqa: S311
        for seed in (0, 0, 1)
    )
    ids = [item.listing.product_id for batch in one for item, _ in batch]
    assert sorted(ids) == sorted(item.listing.product_id for item in items)
    assert sorted(len(batch) for batch in one) == [2] + [7] * 10
    lengths = sorted([prepared.tokens for _, prepared in batch] for batch in one)
    assert all(shorter[-1] <= longer[0] for shorter, longer in pairwise(lengths))
    assert listings_of(one) == listings_of(same) != listings_of(other)
