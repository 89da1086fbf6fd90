"""Each tag's labels as a chain, beside all readings counted one by one."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from taggen.chain import posteriors
from taggen.windows import BLANK, NO_FIELD

TAGS = 2
LABELS = 2 * TAGS + 1

NONE, BEGINS, GOES_ON = range(3)


def may_follow(label: int, before: int | None, same_field: bool) -> bool:
    """Whether a reading may have the label behind another; None: the row begins here."""
    return label != GOES_ON or before is None or (same_field and before != NONE)


def counted(scores: Tensor, sources: list[int]) -> Tensor:
    """What the posteriors of a tag are at a row's real tokens, [tokens, 2], given the scores of its three labels,
    [tokens, 3]: every reading with its probability."""
    own = scores.double().softmax(-1)
    real = [at for at, source in enumerate(sources) if source >= 0]
    found = torch.zeros_like(own)
    for labels in itertools.product(range(3), repeat=len(real)):
        befores: list[int | None] = [None, *labels]
        fields = [sources[real[0]], *(sources[at] for at in real)]
        if all(
            may_follow(label, before, fields[at] == fields[at + 1])
            for at, (label, before) in enumerate(zip(labels, befores, strict=False))
        ):
            weight = math.prod(float(own[at, label]) for at, label in zip(real, labels, strict=True))
            for at, label in zip(real, labels, strict=True):
                found[at, label] += weight
    return (found[real] / found[real].sum(-1, keepdim=True))[:, 1:]


@given(
    st.lists(st.sampled_from([0, 1, NO_FIELD, BLANK]), min_size=1, max_size=5).filter(lambda row: max(row) >= 0),
    st.integers(0, 2**32),
)
def test_posteriors_are_those_of_all_readings(sources: list[int], seed: int) -> None:
    """A tag goes on only where it is open in the same field, whatever other tags do there; blanks and separators carry
    none, and a row may begin in the middle of one."""
    scores = 3 * torch.randn(1, len(sources), LABELS, generator=torch.Generator().manual_seed(seed))
    found = posteriors(scores, torch.tensor([sources]))
    real = torch.tensor(sources) >= 0
    for tag in range(TAGS):
        its = scores[0][:, [0, 2 * tag + 1, 2 * tag + 2]]
        torch.testing.assert_close(found[0, real, tag], counted(its, sources).float(), atol=1e-6, rtol=1e-5)
    assert (found[0, ~real] == 0).all()


def test_a_tag_that_begins_nowhere_does_not_go_on() -> None:
    """Three tokens that are each most probably inside are read with a beginning, though it is the less probable."""
    probabilities = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.0, 0.9], [0.1, 0.0, 0.9]])
    scores = probabilities.log().clamp(min=-50)[None]
    found = posteriors(scores, torch.zeros(1, 3, dtype=torch.long))[0, :, 0]
    assert found[0].sum() > 0.9
    assert found[1, 1] > 0.9
    apart = posteriors(scores, torch.tensor([[0, 1, 1]]))[0, :, 0]
    assert apart[0].sum() == pytest.approx(0.5)
    assert apart[1, 1] == 0


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
    assert together.shape == (37, 24, tags, 2)
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
    assert (found.sum(-1) <= 1 + 1e-6).all()
