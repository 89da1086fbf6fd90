import pytest
import torch
from torch import Tensor, nn

from taggen import chain, temperature

STEP = 2 ** (1 / 16)
SPANS = 20_000


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


@pytest.mark.parametrize("times", [0.5, 1.0, 3.0])
def test_spans_are_as_confident_as_right(times: float, random: torch.Generator) -> None:
    """Spans of one to three tokens at the beginning of a field of three, right as often as they are probable."""
    lengths = torch.randint(1, 4, (SPANS,), generator=random)
    scores = 2 * torch.randn(SPANS, 3, 5, generator=random)
    tags = torch.randint(1, 3, (SPANS,), generator=random)
    held = torch.arange(3) < lengths[:, None]

    def posteriors(divisor: float) -> Tensor:
        return chain.posteriors(scores / divisor, torch.zeros(SPANS, 3, dtype=torch.long))

    begins, goes_on, ends = posteriors(1.0)[torch.arange(SPANS), :, tags - 1].unbind(-1)
    there = begins + goes_on
    further = torch.where(held[:, 1:], goes_on[:, 1:] / there[:, :-1], 1).prod(1)
    confidences = begins[:, 0] * further * (ends / there).gather(1, lengths[:, None] - 1)[:, 0]
    right = torch.bernoulli(confidences, generator=random) > 0
    spans = torch.arange(SPANS).repeat_interleave(lengths)
    found = temperature.of_spans(lambda divisor: posteriors(divisor / times)[held], tags[spans], spans, right)
    assert found == pytest.approx(times, rel=3 * (STEP - 1))


def test_a_handful_of_outcomes_changes_nothing() -> None:
    """All of them right by luck would make the head sure of everything."""
    few = temperature.FEWEST - 1
    ones = torch.ones(few, dtype=torch.long)
    assert temperature.of_spans(lambda _: torch.rand(few, 1, 3), ones, torch.arange(few), ones > 0) == 1.0
    assert temperature.of_labels(torch.randn(few, 1), torch.ones(few, 1)) == 1.0
    assert temperature.of_spans(lambda _: torch.zeros(0, 1, 3), ones[:0], ones[:0], ones[:0] > 0) == 1.0
    assert temperature.of_labels(torch.zeros(0, 0), torch.zeros(0, 0)) == 1.0


def test_one_impossible_outcome_does_not_decide_alone(random: torch.Generator) -> None:
    """A wrong mark among five hundred honest logits, where the head was certain, leaves them as they are."""
    logits = 2 * torch.randn(501, 1, generator=random)
    targets = torch.bernoulli(logits.sigmoid(), generator=random)
    logits[0], targets[0] = 25, 0
    assert temperature.of_labels(logits, targets) == pytest.approx(1, rel=0.25)


def test_a_folded_head_gives_the_divided_scores() -> None:
    """Those of tags by the one temperature, those of labels by the other."""
    head = nn.Linear(8, 5 + 3)
    x = torch.randn(4, 8)
    before = head(x)
    temperature.fold(head, 2, 2.0, 0.5)
    torch.testing.assert_close(head(x), torch.cat((before[:, :5] / 2, before[:, 5:] * 2), -1))
    assert head.weight.requires_grad
