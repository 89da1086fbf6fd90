import pytest
import torch
from torch import nn

from taggen.batches import IGNORED, Batch
from taggen.loss import loss

TAGS, LABELS = 2, 3
SPANS = 2 * TAGS + 1


def batch(
    targets: list[list[int]], labels: list[list[float]], listings: list[int] | None = None, *, goes_on: bool = False
) -> Batch:
    """A batch of rows whose tokens begin this tag, or none; each row is a listing unless told otherwise. With `goes_on`
    tags may go on everywhere, else nowhere."""
    tokens = torch.tensor(targets)
    its = torch.tensor(listings or list(range(len(targets))))
    tags = torch.where(tokens[..., None] == IGNORED, IGNORED, (tokens[..., None] == torch.arange(1, TAGS + 1)).long())
    return Batch(tokens, tokens > 0, tags, torch.full_like(tags, goes_on, dtype=torch.bool), its, torch.tensor(labels))


def test_tokens_and_labels_both_count() -> None:
    """By hand: scores of zero make a half of what each tag does at a token and of each listing-level label."""
    scores = torch.zeros(1, 3, SPANS + LABELS)
    tokens = TAGS * torch.tensor(2.0).log()
    a_label = torch.tensor(2.0).log()
    both = loss(scores, batch([[IGNORED, 1, 0]], [[1.0, 0.0, 0.0]]))
    alone = loss(scores[..., :SPANS], batch([[IGNORED, 1, 0]], [[]]))
    torch.testing.assert_close(alone, tokens)
    unknown = loss(scores, batch([[IGNORED, 1, 0]], [[1.0, float(IGNORED), float(IGNORED)]]))
    torch.testing.assert_close((both - tokens) / (unknown - tokens), torch.tensor(3.0))
    assert (unknown - tokens) / a_label > 0


def test_where_a_tag_can_go_on_it_may_do_three_things() -> None:
    """By hand, and elsewhere the score of going on has no say."""
    scores = torch.zeros(1, 3, SPANS)
    targets = [[IGNORED, 1, 0]]
    torch.testing.assert_close(loss(scores, batch(targets, [[]], goes_on=True)), TAGS * torch.tensor(3.0).log())
    scores[..., 2::2] = 7.0
    torch.testing.assert_close(loss(scores, batch(targets, [[]])), TAGS * torch.tensor(2.0).log())


@pytest.mark.parametrize("column", range(SPANS + LABELS))
def test_what_nobody_knows_teaches_nothing(column: int) -> None:
    """No gradient reaches the outputs of a label of which nothing is known, nor any without a single target."""
    scores = torch.randn(2, 3, SPANS + LABELS, requires_grad=True)
    unknown = float(IGNORED)
    labels = [[1.0, unknown, 0.0], [0.0, unknown, unknown]]
    loss(scores, batch([[IGNORED, 1, 0], [IGNORED] * 3], labels, goes_on=True)).backward()
    assert scores.grad is not None
    reached = scores.grad[..., column].abs().amax(-1) > 0
    assert reached.tolist() == {SPANS: [True, True], SPANS + 1: [False, False]}.get(column, [True, False])
    nothing = loss(scores, batch([[IGNORED] * 3] * 2, [[unknown] * LABELS] * 2))
    assert nothing == 0


def test_labels_are_learnt_at_the_start_token_of_the_surest_window() -> None:
    """A listing of two windows has one logit for each label, the higher one, and only that is moved."""
    scores = torch.zeros(3, 4, SPANS + 1)
    scores[:, 0, SPANS] = torch.tensor([-1.0, 2.0, 0.5])
    scores.requires_grad_()
    two = batch([[IGNORED] * 4] * 3, [[0.0], [1.0]], [0, 0, 1])
    value = loss(scores, two)
    logits = torch.tensor([2.0, 0.5])
    expected = nn.functional.binary_cross_entropy_with_logits(logits, torch.tensor([0.0, 1.0]))
    ratio = value / expected
    value.backward()
    assert scores.grad is not None
    assert (scores.grad[..., SPANS].abs() > 0).nonzero().tolist() == [[1, 0], [2, 0]]
    assert scores.grad[1, 0, SPANS] > 0 > scores.grad[2, 0, SPANS]
    assert 0 < ratio <= 1


def test_certainty_is_not_taught() -> None:
    """A token whose right tag is far ahead is taught to come back: who labels listings is not certain either."""
    targets, labels = [[IGNORED, 1, IGNORED]], [[0.0] * LABELS]

    def of(ahead: float) -> float:
        scores = torch.zeros(1, 3, SPANS + LABELS)
        scores[0, 1, 1] = ahead
        return float(loss(scores, batch(targets, labels)))

    assert of(4.0) < of(0.0)
    assert of(4.0) < of(20.0)
