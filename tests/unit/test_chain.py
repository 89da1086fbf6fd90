"""Each tag's labels as a chain, beside all readings counted one by one."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from taggen.chain import posteriors
from taggen.head import reading, spans
from taggen.windows import BLANK, NO_FIELD

TAGS = 2
LABELS = 2 * TAGS + 1

NONE, BEGINS, GOES_ON = range(3)


def readings(scores: Tensor, sources: list[int]) -> list[tuple[float, tuple[int, ...]]]:
    """Every reading of a tag at a row's real tokens with its probability, given the scores of its three labels,
    [tokens, 3]: the product over the tokens of what they say of what the tag may do there."""
    real = [at for at, source in enumerate(sources) if source >= 0]
    found = []
    for labels in itertools.product(range(3), repeat=len(real)):
        weight = 1.0
        before = None
        for at, label in zip(real, labels, strict=True):
            may = 3 if before == (sources[at], True) else 2
            weight *= float(scores[at, :may].double().softmax(-1)[label]) if label < may else 0.0
            before = sources[at], label != NONE
        found.append((weight, labels))
    assert sum(weight for weight, _ in found) == pytest.approx(1)
    return found


def counted(scores: Tensor, sources: list[int]) -> Tensor:
    """What the posteriors of a tag are at a row's real tokens, [tokens, 3]."""
    found = torch.zeros(sum(source >= 0 for source in sources), 3)
    for weight, labels in readings(scores, sources):
        for at, label in enumerate(labels):
            if label != NONE:
                found[at, label - 1] += weight
                found[at, 2] += weight * ((*labels, NONE)[at + 1] != GOES_ON)
    return found


@given(
    st.lists(st.sampled_from([0, 1, NO_FIELD, BLANK]), min_size=1, max_size=5).filter(lambda row: max(row) >= 0),
    st.integers(0, 2**32),
)
def test_posteriors_are_those_of_all_readings(sources: list[int], seed: int) -> None:
    """A tag goes on only where the token before in the same field carries it, whatever other tags do there, and ends
    where it does not; blanks and separators carry none."""
    scores = 3 * torch.randn(1, len(sources), LABELS, generator=torch.Generator().manual_seed(seed))
    found = posteriors(scores, torch.tensor([sources]))
    real = torch.tensor(sources) >= 0
    for tag in range(TAGS):
        its = scores[0][:, [0, 2 * tag + 1, 2 * tag + 2]]
        torch.testing.assert_close(found[0, real, tag], counted(its, sources), atol=1e-6, rtol=1e-5)
    assert (found[0, ~real] == 0).all()


@given(st.integers(0, 2**32), st.sampled_from([[0, 0, 0, 0], [0, BLANK, 0, 0, 0], [0, 0, NO_FIELD, 1, 1]]))
def test_a_spans_confidence_is_the_share_of_readings_that_have_it(seed: int, sources: list[int]) -> None:
    """From its first token to its last one, no more and no less; all that are probable enough are read."""
    scores = 3 * torch.randn(1, len(sources), 3, generator=torch.Generator().manual_seed(seed))
    real = [at for at, source in enumerate(sources) if source >= 0]
    shares: defaultdict[tuple[int, int], float] = defaultdict(float)
    for weight, labels in readings(scores[0], sources):
        firsts = [at for at, label in enumerate(labels) if label == BEGINS]
        for first in firsts:
            behind = itertools.takewhile(lambda at: labels[at] == GOES_ON, range(first + 1, len(labels)))  # noqa: B023
            last = max(behind, default=first)
            shares[real[first], real[last] + 1] += weight
    (tags,) = reading(posteriors(scores, torch.tensor([sources])), torch.zeros(1, 0)).tags
    found = {(span.first, span.last): span.confidence for span in spans(tags, sources)}
    assert found == pytest.approx({place: shares[place] for place in found}, abs=1e-5)
    assert set(found) >= {place for place, share in shares.items() if share > 0.5 + 1e-5}


def test_a_tag_that_begins_nowhere_does_not_go_on() -> None:
    """However sure the tokens are that it would."""
    sure = torch.tensor([[[0.0, -1.0, 50.0]] * 3])
    found = posteriors(sure, torch.tensor([[0, 0, 0]]))[0, :, 0]
    assert found[0].tolist() == pytest.approx([0.2689, 0.0, 0.0], abs=1e-4)
    assert found[1:, 1].tolist() == pytest.approx([0.2689, 0.2689 + 0.7311 * 0.2689], abs=1e-4)
    apart = posteriors(sure, torch.tensor([[0, 1, 2]]))[0, :, 0]
    assert apart.tolist() == [pytest.approx([0.2689, 0.0, 0.2689], abs=1e-4)] * 3


def test_a_token_may_carry_several_tags() -> None:
    """Each is as probable as it would be without the other."""
    both = torch.tensor([[[0.0, 3.0, -3.0, 4.0, -3.0], [0.0, -3.0, 3.0, -3.0, -3.0]]])
    found = posteriors(both, torch.zeros(1, 2, dtype=torch.long))
    assert (found[0, 0, :, 0] > 0.9).all()
    assert found[0, 1, 0, 1] > 0.9
    alone = posteriors(both[..., :3], torch.zeros(1, 2, dtype=torch.long))
    assert torch.equal(found[..., :1, :], alone)


@pytest.mark.parametrize("tags", [0, 1, 16, 115])
def test_the_same_bits_in_any_batch(tags: int) -> None:
    """Alone, among others, and with more padding behind it."""
    generator = torch.Generator().manual_seed(tags)
    scores = 5 * torch.randn(37, 24, 2 * tags + 1, generator=generator)
    sources = torch.randint(BLANK, 3, (37, 24), generator=generator).sort(dim=1, stable=True).values
    together = posteriors(scores, sources)
    assert together.shape == (37, 24, tags, 3)
    for row in range(37):
        assert torch.equal(posteriors(scores[row : row + 1], sources[row : row + 1])[0], together[row])
    longer = torch.cat((scores, torch.zeros_like(scores[:, :8])), 1)
    fields = torch.nn.functional.pad(sources, (0, 8), value=NO_FIELD)
    assert torch.equal(posteriors(longer, fields)[:, :24], together)


@pytest.mark.parametrize("more", [2, 3])
def test_outputs_that_are_no_labels_are_no_tags(more: int) -> None:
    """Those masked by minus infinity; the others have what they would have without them."""
    scores = torch.randn(4, 9, LABELS)
    sources = torch.zeros(4, 9, dtype=torch.long)
    found = posteriors(torch.nn.functional.pad(scores, (0, more), value=-math.inf), sources)
    assert (found[:, :, TAGS:] == 0).all()
    assert torch.equal(found[:, :, :TAGS], posteriors(scores, sources))


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=4 * LABELS, max_size=4 * LABELS))
def test_no_score_is_too_large(numbers: list[float]) -> None:
    """Whatever finite scores a head gives, the probabilities are some."""
    scores = torch.tensor(numbers).reshape(1, 4, LABELS)
    found = posteriors(scores, torch.zeros(1, 4, dtype=torch.long))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[..., :2].sum(-1) <= 1 + 1e-6).all()
    assert (found[..., 2] <= found[..., :2].sum(-1) + 1e-6).all()
