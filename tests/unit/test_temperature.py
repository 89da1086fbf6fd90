import pytest
import torch
from torch import nn

from taggen import temperature

STEP = 2 ** (1 / 16)


@pytest.fixture
def random() -> torch.Generator:
    """The same numbers each time."""
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_labels_logits_are_brought_back_to_what_was_true(times: float, random: torch.Generator) -> None:
    """Outcomes drawn by some logits, which are then blown up or shrunk; what nobody knows has no say."""
    logits = 2 * torch.randn(2000, 5, generator=random)
    targets = torch.bernoulli(logits.sigmoid(), generator=random)
    unknown = torch.rand(2000, 5, generator=random) < 0.3
    targets[unknown] = -100
    logits[unknown] *= 50
    assert temperature.of_labels(times * logits, targets) == pytest.approx(times, rel=3 * (STEP - 1))


@pytest.mark.parametrize("times", [0.6, 1.0, 2.5])
def test_spans_are_as_confident_as_right(times: float, random: torch.Generator) -> None:
    """Spans of one to three tokens, right as often as the mean of their tokens' probabilities says."""
    lengths = torch.randint(1, 4, (3000,), generator=random)
    spans = torch.repeat_interleave(torch.arange(3000), lengths)
    scores = 2 * torch.randn(len(spans), 5, generator=random)
    tags = torch.randint(1, 3, (len(spans),), generator=random)
    probabilities = scores.softmax(-1)
    of_tag = torch.where(tags == 1, probabilities[:, 1:3].sum(-1), probabilities[:, 3:5].sum(-1))
    confidences = torch.zeros(3000).index_add(0, spans, of_tag) / lengths
    right = torch.bernoulli(confidences, generator=random) > 0
    blown_up = times * scores
    found = temperature.of_spans(lambda divisor: (blown_up / divisor).softmax(-1), tags, spans, right)
    assert found == pytest.approx(times, rel=4 * (STEP - 1))


def test_a_handful_of_outcomes_changes_nothing() -> None:
    """All of them right by luck would make the head sure of everything."""
    few = temperature.FEWEST - 1
    ones = torch.ones(few, dtype=torch.long)
    assert temperature.of_spans(lambda _: torch.rand(few, 3), ones, torch.arange(few), ones > 0) == 1.0
    assert temperature.of_labels(torch.randn(few, 1), torch.ones(few, 1)) == 1.0
    assert temperature.of_spans(lambda _: torch.zeros(0, 3), ones[:0], ones[:0], ones[:0] > 0) == 1.0
    assert temperature.of_labels(torch.zeros(0, 0), torch.zeros(0, 0)) == 1.0


def test_one_impossible_outcome_does_not_decide_alone() -> None:
    """A wrong mark among thousands of sure ones has a likelihood of 0; the temperature stays finite and in reach."""
    logits = torch.full((5000, 1), 200.0)
    targets = torch.ones(5000, 1)
    targets[0] = 0
    assert temperature.of_labels(logits, targets) in temperature.CANDIDATES


def test_a_folded_head_gives_the_divided_scores() -> None:
    """Those of tags by the one temperature, those of labels by the other."""
    head = nn.Linear(8, 5 + 3)
    x = torch.randn(4, 8)
    before = head(x)
    temperature.fold(head, 2, 2.0, 0.5)
    torch.testing.assert_close(head(x), torch.cat((before[:, :5] / 2, before[:, 5:] * 2), -1))
    assert head.weight.requires_grad
