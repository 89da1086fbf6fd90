"""Platt's scaling (Platt 1999): what the head's scores are divided by, and how much more they then speak for "not
there", so that its confidences mean what they say.

One pair of numbers for spans and one for listing-level labels, those that make the outcomes on the development part the
most probable. A span's confidence is the mean over its tokens of its tag's probability, and it is right only as a
whole: so it is the spans' own likelihood that decides, not that of their tokens, which are right more often. The shift
is there because what the head reads is what it favours: among tags that are hardly more probable than none, few are
right, however flat a temperature (Guo et al. 2017) makes all of them.
"""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from taggen.head import label_count

FEWEST = 50  # outcomes; fewer say too little, and the scores stay as they are

FARTHEST = (2.0, 4.0)  # log2 of the temperature, and the shift, either way
FINEST = 1 / 16  # of both

_SMALLEST = 1e-6  # probability: one outcome that was held to be impossible must not decide alone


class Scaling(NamedTuple):
    """Scores are divided by the temperature; then "not there" gains the shift."""

    temperature: float = 1.0
    shift: float = 0.0

    def spans(self, scores: Tensor) -> Tensor:
        """Scores [..., 2K+1] of "no tag" and the tags' labels, scaled."""
        scaled = scores / self.temperature
        scaled[..., 0] += self.shift
        return scaled

    def labels(self, logits: Tensor) -> Tensor:
        """Logits of listing-level labels, scaled."""
        return logits / self.temperature - self.shift


def of_spans(posteriors: Callable[[Scaling], Tensor], tags: Tensor, spans: Tensor, right: Tensor) -> Scaling:
    """The scaling for spans.

    `posteriors` gives, for a scaling, the probabilities [tokens, K, 2] that tags begin and go on at the tokens of all
    spans that the head reads, one behind the other; `tags` [tokens] is the tag (1 to K) that each is read for,
    `spans` [tokens] the span that it belongs to, and `right` [spans] says which are right.
    """
    if len(right) < FEWEST:
        return Scaling()
    lengths = torch.bincount(spans, minlength=len(right))

    def loss(scaling: Scaling) -> float:
        of_tag = posteriors(scaling).sum(-1).gather(-1, tags[:, None] - 1)[:, 0]
        confidences = torch.zeros(len(right)).index_add(0, spans, of_tag) / lengths
        return _log_loss(confidences, right)

    return _best(loss)


def of_labels(logits: Tensor, targets: Tensor) -> Scaling:
    """The scaling for listing-level labels, out of logits and targets [listings, M]: 1 has it, 0 has it not, below 0
    nobody knows."""
    known = targets >= 0
    logits, right = logits[known], targets[known] > 0
    if int(right.sum()) < FEWEST:
        return Scaling()
    return _best(lambda scaling: _log_loss(scaling.labels(logits).sigmoid(), right))


def fold(head: nn.Linear, tags: int, of_spans: Scaling, of_labels: Scaling) -> None:
    """Scale the head, in place: then nobody who serves it has to know of it."""
    spans = label_count(tags)
    with torch.no_grad():
        for parameter in (head.weight, head.bias):
            parameter[:spans] /= of_spans.temperature
            parameter[spans:] /= of_labels.temperature
        head.bias[0] += of_spans.shift
        head.bias[spans:] -= of_labels.shift


def _best(loss: Callable[[Scaling], float]) -> Scaling:
    """The scaling of the least loss: a compass search (Kolda et al. 2003), which goes to the best of the eight
    neighbours, or nearer where none is better."""
    at, step = (0.0, 0.0), 1.0
    least = loss(Scaling())
    while step >= FINEST:
        around = {_within(at[0] + right * step, at[1] + up * step) for right, up in product((-1, 0, 1), repeat=2)}
        losses = {place: loss(Scaling(2 ** place[0], place[1])) for place in sorted(around - {at})}
        nearest = min(losses, key=losses.__getitem__)
        if losses[nearest] < least:
            at, least = nearest, losses[nearest]
        else:
            step /= 2
    return Scaling(2 ** at[0], at[1])


def _within(log: float, shift: float) -> tuple[float, float]:
    farthest, most = FARTHEST
    return min(max(log, -farthest), farthest), min(max(shift, -most), most)


def _log_loss(confidences: Tensor, right: Tensor) -> float:
    clamped = confidences.double().clamp(_SMALLEST, 1 - _SMALLEST)
    return float(nn.functional.binary_cross_entropy(clamped, right.double()))
