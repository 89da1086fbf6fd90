"""BIO labels as a chain: how probable each label is once those that no reading of a field can hold are ruled out.

A linear-chain model (Lafferty et al. 2001) without a number of its own: any label may follow any other, but a tag goes
on only where it has begun. Its posteriors come from the forward-backward recursion, which these transitions make linear
in the number of tags: all that a token passes on is how probable it is that each tag is open.
"""

import math

import torch
from torch import Tensor

DECODING = 1  # goes into the tagger's fingerprint: grows with every change of how the head's scores are read

_SMALLEST = 1e-130  # float64, squared still a number: no label is so improbable that all others are certain


def posteriors(scores: Tensor, sources: Tensor) -> Tensor:
    """Probabilities of the labels, float32 [rows, tokens, outputs], given their scores, which may be minus infinity for
    outputs that are no labels.

    `sources` [rows, tokens] is the field that each token is of, or NO_FIELD or BLANK (taggen.windows): such a token has
    no place in a chain, and its own probabilities. A field is a chain; the first of a row may begin before the row. A
    row's bits depend on the row alone.
    """
    real = sources >= 0
    order = torch.argsort(~real, dim=1, stable=True)  # the tokens of the chains, then the others
    places = order[..., None].expand_as(scores)
    fields = sources.gather(1, order)
    begins = torch.ones_like(fields, dtype=torch.bool)
    begins[:, 1:] = fields[:, 1:] != fields[:, :-1]
    begins[:, 0] = False
    begins |= fields < 0

    own = scores.double().softmax(-1)
    apart = own.clamp(min=_SMALLEST).masked_fill_(scores == -math.inf, 0).gather(1, places)
    none, begin, inside = apart[..., :1], apart[..., 1::2], apart[..., 2::2]
    tags = inside.shape[-1]
    last = begin[..., tags:]  # an output without a partner is no label
    begin = begin[..., :tags]
    inside = inside.masked_fill(begins[..., None], 0)

    # forward: each tag going on at a token, given that it is open at the one before
    going = torch.empty_like(inside)
    carried = torch.ones_like(inside[:, 0])
    for at in range(scores.shape[1]):
        going[:, at] = inside[:, at] * carried
        here = begin[:, at] + going[:, at]
        carried = here / (none[:, at] + here.sum(-1, keepdim=True))
    # backward: how much more can follow where a tag is open than where none is
    ahead = torch.ones_like(inside)
    for at in range(scores.shape[1] - 2, -1, -1):
        after = ahead[:, at + 1]
        others = none[:, at + 1] + (begin[:, at + 1] * after).sum(-1, keepdim=True)
        ahead[:, at] = 1 + inside[:, at + 1] * after / others

    joint = torch.empty_like(apart)
    joint[..., :1] = none
    joint[..., 1::2] = torch.cat((begin * ahead, last), -1)
    joint[..., 2::2] = going * ahead
    chained = torch.zeros_like(joint).scatter_(1, places, joint / joint.sum(-1, keepdim=True))
    return torch.where(real[..., None], chained, own).float()
