"""The head's bias to begin with."""

import math

import pytest
import torch

from taggen import prior
from taggen.base import load_base
from taggen.corpus import Labelled, Span
from taggen.listing import Listing
from tests.tiny import Tiny

TAGS = ("brand", "color")


def test_a_head_begins_at_the_shares_of_labels(tiny: Tiny) -> None:
    """Softmax gives each tag's beginning and going on its share of the tokens that teach, and the logistic function
    each listing-level label its share of the listings that say something of it; what none has is improbable, not
    impossible."""
    base = load_base(str(tiny.base))
    marked = Labelled(
        Listing("m", "p", 1, "nike shoe red blue"), (Span("title", 0, 9, "brand"),), labels={"use": ("a",)}
    )
    plain = Labelled(Listing("m", "p", 2, "shoe red"), (), labels={"use": ()})
    part = Labelled(Listing("m", "p", 3, "nike blue"), (Span("title", 0, 4, "brand"),), partial=True)
    bias = prior.bias([marked, plain, part], base, TAGS, [("use", "a")])
    for tag, counts in ([1, 2], [4.5, 2.5, 1.5]), ([3, 4], [7.5, 0.5, 0.5]):  # is not there, begins, goes on
        its = torch.tensor(counts)
        torch.testing.assert_close(bias[[0, *tag]].softmax(-1), its / its.sum())
    assert bias[5].item() == pytest.approx(math.log(1.5 / 1.5))


def test_nothing_to_learn_from_is_no_preference(tiny: Tiny) -> None:
    """An adapter that goes on for no epoch at all has no listings to count."""
    bias = prior.bias([], load_base(str(tiny.base)), TAGS, [("use", "a")])
    assert bias.isfinite().all()
    assert len(set(bias[:5].tolist())) == 1
