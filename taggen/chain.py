"""BIO labels as chains, one for each tag: how probable it is that a tag begins or goes on at a token, once the readings
that no field can hold are ruled out.

Whether a token carries a tag has nothing to do with its other tags: the lens of polycarbonate goggles is their material
too. For one tag this is a linear-chain model (Lafferty et al. 2001) without a number of its own: a tag may begin
anywhere, but goes on only where it has begun. The posteriors come from the forward-backward recursion, over all tags at
once.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DECODING = 2  # goes into the tagger's fingerprint: grows with every change of how the head's scores are read

_Numbers = NDArray[np.float64]

# Log-odds of labels: their products along a chain stay numbers in float64, and the least are 0 in float32.
_FARTHEST = 110.0


def posteriors(scores: Tensor, sources: Tensor) -> Tensor:
    """The probabilities, float32 [rows, tokens, K, 2], that each of K tags begins at a token and that it goes on there,
    given the scores [rows, tokens, 2K+1] of "no tag" and of each tag's two labels. Scores of minus infinity, or a last
    one without a partner, are of no tag.

    `sources` [rows, tokens] is the field that each token is of, or NO_FIELD or BLANK (taggen.windows): such a token has
    no place in a chain, and carries no tag. A field is a chain; the first of a row may begin before the row. A row's
    bits depend on the row alone.
    """
    real = sources >= 0
    steps = int(real.sum(1).max()) if len(real) else 0
    order = torch.argsort(~real, dim=1, stable=True)[:, :steps]  # the tokens of the chains, then others
    fields = sources.gather(1, order)
    begins = torch.ones_like(fields, dtype=torch.bool)
    begins[:, 1:] = fields[:, 1:] != fields[:, :-1]
    begins[:, :1] = False
    begins |= fields < 0

    its = scores.gather(1, order[..., None].expand(-1, -1, scores.shape[2])).transpose(0, 1).double().numpy()
    odds = np.exp(np.clip(its[..., 1:] - its[..., :1], -_FARTHEST, _FARTHEST))
    joint = torch.from_numpy(_joint(odds, begins.T.numpy())).transpose(0, 1)
    found = torch.zeros((*scores.shape[:2], *joint.shape[2:]))
    found.scatter_(1, order[..., None, None].expand(joint.shape), joint.float())
    return found.masked_fill_(~real[..., None, None], 0)


def _joint(odds: _Numbers, begins: NDArray[np.bool_]) -> _Numbers:
    """The posteriors [tokens, rows, K, 2] of chains whose labels have these odds [tokens, rows, 2K] against "no tag",
    apart from each other; where one `begins` [tokens, rows], nothing goes on. numpy has a fifth of torch's cost for
    each of many small steps.
    """
    inside = np.ascontiguousarray(odds[..., 1::2])
    inside[begins] = 0
    begin = np.ascontiguousarray(odds[..., 0::2][..., : inside.shape[-1]])

    # forward: a tag going on at a token, given that it is open at the one before
    going = np.empty_like(inside)
    carried = np.ones_like(inside[0]) if len(inside) else inside
    for at, its in enumerate(inside):
        np.multiply(its, carried, out=going[at])
        np.add(begin[at], going[at], out=carried)
        carried /= 1 + carried
    # backward: how much more can follow where a tag is open than where it is not
    ahead = np.ones_like(inside)
    for at in range(len(inside) - 2, -1, -1):
        after = ahead[at + 1]
        ahead[at] += inside[at + 1] * after / (1 + begin[at + 1] * after)

    joint: _Numbers = np.stack((begin * ahead, going * ahead), -1)
    joint /= 1 + joint.sum(-1, keepdims=True)
    return joint
