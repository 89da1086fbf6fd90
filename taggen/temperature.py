"""Temperatures: what the head's scores are divided by, so that its confidences mean what they say (Guo et al. 2017).

One for spans and one for listing-level labels, each the one that makes the outcomes on the development part the most
probable. A span is right only as a whole: so it is the spans' own likelihood that decides, not that of their tokens,
which are right more often.
"""

from collections.abc import Callable
from math import log

import torch
from torch import Tensor, nn

from taggen.head import label_count

CANDIDATES = tuple(2 ** (step / 16) for step in range(-32, 33))  # 1/4 to 4; 1 is among them

FEWEST = 50  # outcomes; fewer say too little, and the scores stay as they are

_SMALLEST = 1e-6  # probability: one outcome that was held to be impossible must not decide alone


def of_spans(posteriors: Callable[[float], Tensor], tags: Tensor, spans: Tensor, right: Tensor) -> float:
    """The temperature for spans.

    `posteriors` gives, at a temperature, the probabilities [tokens, K, 3] of what tags do (taggen.chain) at the tokens
    of all spans that the head reads, one behind the other; `tags` [tokens] is the tag (1 to K) that each is read for,
    `spans` [tokens] the span that it belongs to, and `right` [spans] says which are right.
    """
    if len(right) < FEWEST:
        return 1.0
    first = torch.ones_like(spans, dtype=torch.bool)
    first[1:] = spans[1:] != spans[:-1]
    last = first.roll(-1)

    def loss(temperature: float) -> float:
        its = posteriors(temperature)[torch.arange(len(tags)), tags - 1].double()
        begins, goes_on, ends = its.clamp(min=_SMALLEST).unbind(-1)
        there = begins + goes_on
        own = torch.where(first, begins, goes_on / there.roll(1)) * torch.where(last, ends / there, 1.0)
        logs = torch.zeros(len(right), dtype=own.dtype).index_add(0, spans, own.clamp(max=1.0).log())
        return _log_loss(logs.exp(), right)

    return _best(loss)


def of_labels(logits: Tensor, targets: Tensor) -> float:
    """The temperature for listing-level labels, out of logits and targets [listings, M]: 1 has it, 0 has it not, below
    0 nobody knows."""
    known = targets >= 0
    logits, right = logits[known], targets[known] > 0
    if int(right.sum()) < FEWEST:
        return 1.0
    return _best(lambda temperature: _log_loss((logits / temperature).sigmoid(), right))


def fold(head: nn.Linear, tags: int, of_spans: float, of_labels: float) -> None:
    """Divide the head's weights by the temperatures, in place: then nobody who serves it has to know of them."""
    spans = label_count(tags)
    with torch.no_grad():
        for parameter in (head.weight, head.bias):
            parameter[:spans] /= of_spans
            parameter[spans:] /= of_labels


def _best(loss: Callable[[float], float]) -> float:
    return min(CANDIDATES, key=lambda temperature: (loss(temperature), abs(log(temperature))))


def _log_loss(confidences: Tensor, right: Tensor) -> float:
    clamped = confidences.double().clamp(_SMALLEST, 1 - _SMALLEST)
    return float(nn.functional.binary_cross_entropy(clamped, right.double()))
