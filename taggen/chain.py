"""BIO labels as a chain: how probable each label is once those that no reading of a field can hold are ruled out.

A linear-chain model (Lafferty et al. 2001) without a number of its own: any label may follow any other, but a tag goes
on only where it has begun. Its posteriors come from the forward-backward recursion, which these transitions make linear
in the number of tags: all that a token passes on is how probable it is that each tag is open.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DECODING = 1  # goes into the tagger's fingerprint: grows with every change of how the head's scores are read

_Numbers = NDArray[np.float64]

_SMALLEST = 1e-130  # float64, squared still a number: no label is so improbable that all others are certain


def posteriors(scores: Tensor, sources: Tensor) -> Tensor:
    """Probabilities of the labels, float32 [rows, tokens, outputs], given their scores, which may be minus infinity for
    outputs that are no labels.

    `sources` [rows, tokens] is the field that each token is of, or NO_FIELD or BLANK (taggen.windows): such a token has
    no place in a chain, and its own probabilities. A field is a chain; the first of a row may begin before the row. A
    row's bits depend on the row alone.
    """
    real = sources >= 0
    steps = int(real.sum(1).max()) if len(real) else 0
    order = torch.argsort(~real, dim=1, stable=True)[:, :steps]  # the tokens of the chains, then others
    places = order[..., None].expand(-1, -1, scores.shape[2])
    fields = sources.gather(1, order)
    begins = torch.ones_like(fields, dtype=torch.bool)
    begins[:, 1:] = fields[:, 1:] != fields[:, :-1]
    begins[:, :1] = False
    begins |= fields < 0

    own = scores.double().softmax(-1)
    apart = own.clamp(min=_SMALLEST).masked_fill_(scores == -math.inf, 0).gather(1, places)
    joint = torch.from_numpy(_joint(apart.transpose(0, 1).numpy(), begins.T.numpy())).transpose(0, 1)
    chained = own.scatter(1, places, joint)
    return torch.where(real[..., None], chained, own).float()


def _joint(apart: _Numbers, begins: NDArray[np.bool_]) -> _Numbers:
    """The posteriors of chains [tokens, rows, outputs] whose labels have these probabilities apart from each other;
    where one `begins` [tokens, rows], nothing goes on. numpy has a fifth of torch's cost for each of many small steps.
    """
    none = apart[..., 0]
    inside = np.ascontiguousarray(apart[..., 2::2])
    inside[begins] = 0
    tags = inside.shape[-1]
    begin = np.ascontiguousarray(apart[..., 1::2][..., :tags])  # an output without a partner is no label

    # forward: each tag going on at a token, given that it is open at the one before
    going = np.empty_like(inside)
    carried = np.ones_like(inside[0]) if len(inside) else inside
    for at, its in enumerate(inside):
        np.multiply(its, carried, out=going[at])
        np.add(begin[at], going[at], out=carried)
        carried /= (none[at] + carried.sum(-1))[:, None]
    # backward: how much more can follow where a tag is open than where none is
    ahead = np.ones_like(inside)
    for at in range(len(inside) - 2, -1, -1):
        after = ahead[at + 1]
        others = none[at + 1] + (begin[at + 1] * after).sum(-1)
        np.multiply(inside[at + 1], after, out=ahead[at])
        ahead[at] /= others[:, None]
        ahead[at] += 1

    joint = np.zeros_like(apart)
    joint[..., 0] = none
    joint[..., 1::2][..., :tags] = begin * ahead
    joint[..., 2::2] = going * ahead
    joint /= joint.sum(-1, keepdims=True)
    return joint
