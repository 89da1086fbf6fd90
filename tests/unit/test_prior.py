"""The head's bias to begin with."""

import math

import pytest

from taggen import prior
from taggen.base import load_base
from taggen.corpus import Labelled, Span
from taggen.listing import Listing
from tests.tiny import Tiny

TAGS = ("brand", "color")


def test_a_head_begins_at_the_shares_of_labels(tiny: Tiny) -> None:
    """The logistic function gives each tag's beginning its share of the tokens that teach, its going on that of those
    where it can, and each listing-level label its share of the listings that say something of it; what none has is
    improbable, not impossible."""
    base = load_base(str(tiny.base))
    marked = Labelled(
        Listing("m", "p", 1, "nike shoe red blue"), (Span("title", 0, 9, "brand"),), labels={"use": ("a",)}
    )
    plain = Labelled(Listing("m", "p", 2, "shoe red"), (), labels={"use": ()})
    part = Labelled(Listing("m", "p", 3, "nike blue"), (Span("title", 0, 4, "brand"),), partial=True)
    bias = prior.bias([marked, plain, part], base, TAGS, [("use", "a")])
    for output, there, not_there in (1, 2.5, 4.5), (2, 1.5, 1.5), (3, 0.5, 7.5), (4, 0.5, 0.5):
        assert bias[output].item() == pytest.approx(math.log(there / not_there))
    assert bias[0] == 0
    assert bias[5].item() == pytest.approx(math.log(1.5 / 1.5))


def test_nothing_to_learn_from_is_no_preference(tiny: Tiny) -> None:
    """An adapter that goes on for no epoch at all has no listings to count."""
    bias = prior.bias([], load_base(str(tiny.base)), TAGS, [("use", "a")])
    assert bias.isfinite().all()
    assert len(set(bias[:5].tolist())) == 1
