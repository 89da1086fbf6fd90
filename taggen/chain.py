"""BIO labels as chains, one for each tag: how probable it is that a tag begins, goes on or ends at a token.

Whether a token carries a tag has nothing to do with its other tags: the lens of polycarbonate goggles is their material
too. Of one tag a token says what comes after a token that carries it, and what after one that does not, where it cannot
go on: a maximum entropy Markov model (McCallum et al. 2000) whose tokens see the whole text, from both sides. One pass
along a field gives the probabilities, of all tags at once.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DECODING = 3  # goes into the tagger's fingerprint: grows with every change of how the head's scores are read

_Numbers = NDArray[np.float64]

# Log-odds of labels: their products along a chain stay numbers in float64, and the least are 0 in float32.
_FARTHEST = 110.0


def posteriors(scores: Tensor, sources: Tensor) -> Tensor:
    """The probabilities, float32 [rows, tokens, K, 3], that each of K tags begins at a token, that it goes on there,
    and that it is there and ends, given the scores [rows, tokens, 2K+1] of "no tag" and of each tag's two labels.
    Scores of minus infinity, or a last one without a partner, are of no tag.

    `sources` [rows, tokens] is the field that each token is of, or NO_FIELD or BLANK (taggen.windows): such a token has
    no place in a chain, and carries no tag. A field is a chain, and what a row has of one. A row's bits depend on the
    row alone.
    """
    real = sources >= 0
    steps = int(real.sum(1).max()) if len(real) else 0
    order = torch.argsort(~real, dim=1, stable=True)[:, :steps]  # the tokens of the chains, then others
    fields = sources.gather(1, order)
    starts = torch.ones_like(fields, dtype=torch.bool)
    starts[:, 1:] = fields[:, 1:] != fields[:, :-1]

    its = scores.gather(1, order[..., None].expand(-1, -1, scores.shape[2])).transpose(0, 1).double().numpy()
    odds = np.exp(np.clip(its[..., 1:] - its[..., :1], -_FARTHEST, _FARTHEST))
    joint = torch.from_numpy(_joint(odds, starts.T.numpy())).transpose(0, 1)
    found = torch.zeros((*scores.shape[:2], *joint.shape[2:]))
    found.scatter_(1, order[..., None, None].expand(joint.shape), joint.float())
    return found.masked_fill_(~real[..., None, None], 0)


def _joint(odds: _Numbers, starts: NDArray[np.bool_]) -> _Numbers:
    """The probabilities [tokens, rows, K, 3] along chains whose labels have these odds [tokens, rows, 2K] against "no
    tag"; where one `starts` [tokens, rows], nothing goes on. numpy has a fifth of torch's cost for each of many small
    steps.
    """
    inside = np.ascontiguousarray(odds[..., 1::2])
    inside[starts] = 0
    begin = odds[..., 0::2][..., : inside.shape[-1]]
    afresh = begin / (1 + begin)
    anew = begin / (1 + begin + inside) - afresh  # more than afresh, behind a token that carries the tag
    further = inside / (1 + begin + inside)

    begins, goes_on = np.empty_like(inside), np.empty_like(inside)
    carried: _Numbers | float = 0.0
    for at in range(len(inside)):
        np.multiply(anew[at], carried, out=begins[at])
        begins[at] += afresh[at]
        np.multiply(further[at], carried, out=goes_on[at])
        carried = begins[at] + goes_on[at]
    ends = begins + goes_on
    ends[:-1] -= goes_on[1:]
    joint: _Numbers = np.stack((begins, goes_on, ends.clip(0)), -1)
    return joint
