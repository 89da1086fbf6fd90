import pytest
import torch
from torch import nn

from taggen import scaling
from taggen.scaling import Scaling

SPANS = 20_000
MANY = [Scaling(0.5, 1.0), Scaling(), Scaling(1.0, -0.5), Scaling(2.5, 0.0), Scaling(3.0, 1.5)]


@pytest.fixture
def random() -> torch.Generator:
    """The same numbers each time."""
    return torch.Generator().manual_seed(0)


def near(scale: Scaling) -> object:
    """A scaling as near as some thousand outcomes and the search's last step let it be."""
    return (pytest.approx(scale.temperature, rel=0.1), pytest.approx(scale.shift, abs=0.15))


@pytest.mark.parametrize("scale", MANY)
def test_labels_logits_are_brought_back_to_what_was_true(scale: Scaling, random: torch.Generator) -> None:
    """Outcomes drawn by some logits, which are then blown up or shrunk, and shifted; what nobody knows has no say."""
    logits = 2 * torch.randn(2000, 5, generator=random)
    targets = torch.bernoulli(logits.sigmoid(), generator=random)
    unknown = torch.rand(2000, 5, generator=random) < 0.3
    targets[unknown] = -100
    logits[unknown] *= 50
    assert scaling.of_labels(scale.temperature * (logits + scale.shift), targets) == near(scale)


@pytest.mark.parametrize("scale", MANY)
def test_spans_are_as_confident_as_right(scale: Scaling, random: torch.Generator) -> None:
    """Spans of one to three tokens, right as often as the mean of their tokens' probabilities says."""
    lengths = torch.randint(1, 4, (SPANS,), generator=random)
    spans = torch.repeat_interleave(torch.arange(SPANS), lengths)
    scores = 2 * torch.randn(len(spans), 2, 3, generator=random)  # of each tag: not there, begins, goes on
    tags = torch.randint(1, 3, (len(spans),), generator=random)
    of_tag = scores.softmax(-1)[torch.arange(len(spans)), tags - 1, 1:].sum(-1)
    confidences = torch.zeros(SPANS).index_add(0, spans, of_tag) / lengths
    right = torch.bernoulli(confidences, generator=random) > 0
    scores[..., 0] -= scale.shift
    own = scale.temperature * scores
    found = scaling.of_spans(lambda scale: scale.spans(own).softmax(-1)[..., 1:], tags, spans, right)
    assert found == near(scale)


def test_a_handful_of_outcomes_changes_nothing() -> None:
    """All of them right by luck would make the head sure of everything."""
    few = scaling.FEWEST - 1
    ones = torch.ones(few, dtype=torch.long)
    assert scaling.of_spans(lambda _: torch.rand(few, 1, 2), ones, torch.arange(few), ones > 0) == Scaling()
    assert scaling.of_labels(torch.randn(few, 1), torch.ones(few, 1)) == Scaling()
    assert scaling.of_spans(lambda _: torch.zeros(0, 1, 2), ones[:0], ones[:0], ones[:0] > 0) == Scaling()
    assert scaling.of_labels(torch.zeros(0, 0), torch.zeros(0, 0)) == Scaling()


def test_one_impossible_outcome_does_not_decide_alone(random: torch.Generator) -> None:
    """A wrong mark among five hundred honest logits, where the head was certain, leaves them as they are."""
    logits = 2 * torch.randn(501, 1, generator=random)
    targets = torch.bernoulli(logits.sigmoid(), generator=random)
    logits[0], targets[0] = 25, 0
    temperature, shift = scaling.of_labels(logits, targets)
    assert temperature == pytest.approx(1, rel=0.25)
    assert shift == pytest.approx(0, abs=0.25)


def test_a_folded_head_gives_the_scaled_scores() -> None:
    """Those of tags by the one scaling, those of labels by the other."""
    head = nn.Linear(8, 5 + 3)
    x = torch.randn(4, 8)
    spans, labels = head(x).split((5, 3), -1)
    of_spans, of_labels = Scaling(2.0, 0.75), Scaling(0.5, -1.0)
    scaling.fold(head, 2, of_spans, of_labels)
    torch.testing.assert_close(head(x), torch.cat((of_spans.spans(spans), of_labels.labels(labels)), -1))
    assert head.weight.requires_grad
