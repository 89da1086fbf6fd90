"""The head: one linear layer that says of each token which tags it carries, and of the listing which labels it has.

Of its 2K+1+M outputs for K tags and M listing-level labels the first 2K+1 are BIO (Ramshaw & Marcus 1995), read tag by
tag over each field as a chain (taggen.chain): output 0 is "no tag", for all tags the same; tag k (from 1) has 2k-1
(begins) and 2k (goes on). The last M are read at the start token alone, a logit for each label, which has nothing to do
with the others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

BEGINS, GOES_ON = 1, 2  # what a tag does at a token that carries it; 0 where it is not

# A span is read that is more probable than this: the F1 of 0.8 that there is on open values is had at half of it
# (Lipton et al. 2014). Thresholds keep out more.
READ = 0.4

_BELOW_ONE = 1 - 2**-24  # the largest float32: what rounds to certainty reaches no threshold of 1, which is for nothing


def begin_label(tag: int) -> int:
    """The label of a token that begins tag `tag` (1 to K)."""
    return 2 * tag - 1


def label_count(tags: int) -> int:
    """BIO labels for a set of so many tags."""
    return 2 * tags + 1


def head_width(tags: int, labels: int = 0) -> int:
    """Outputs of a head for so many tags and listing-level labels."""
    return label_count(tags) + labels


class TaggerModel(nn.Module):
    """An encoder with the head on its last hidden state: what PEFT wraps in training, and what defines the names in an
    adapter's tensors (`encoder.*` with LoRA, `head.*` whole)."""

    def __init__(self, encoder: nn.Module, hidden_size: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(hidden_size, width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Scores, float32 [rows, tokens, width], for ids and mask [rows, tokens]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        scores: Tensor = self.head(hidden)
        return scores.float()


class TokenTag(NamedTuple):
    """A token carries a tag (1 to K): how probable it is that the tag begins there, goes on, and is there and ends."""

    token: int
    tag: int
    begins: float
    goes_on: float
    ends: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What the head says of rows: the tags that each row's tokens may carry, in order of tokens, and the probabilities
    of the listing-level labels, [rows, M], on the CPU."""

    tags: list[list[TokenTag]]
    labels: Tensor


def reading(posteriors: Tensor, logits: Tensor, least: float = READ) -> Reading:
    """Read the probabilities [rows, tokens, K, 3] of what tags do (taggen.chain), and the logits of labels [rows, M]. A
    token carries every tag that is probable enough for a span of more than `least`: none, one or several."""
    carried = posteriors[..., 0] + posteriors[..., 1] > least
    tags: list[list[TokenTag]] = [[] for _ in posteriors]
    for (row, token, tag), does in zip(carried.nonzero().tolist(), posteriors[carried].tolist(), strict=True):
        tags[row].append(TokenTag(token, tag + 1, *does))
    return Reading(tags, _sigmoid(logits).clamp(max=_BELOW_ONE).cpu())


def _sigmoid(logits: Tensor) -> Tensor:
    """The logistic function as a softmax over two. torch's own computes most of a tensor in vectors and the last few
    elements one by one, with other bits: a row's would depend on its place in the batch."""
    return torch.stack((torch.zeros_like(logits), logits), -1).softmax(-1)[..., 1]


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `first` to `last` (exclusive) of a listing's stream carry `tag` (1 to K)."""

    tag: int
    first: int
    last: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the head says of a listing: its spans, in the stream's order, and the probability of each listing-level
    label, in the card's order."""

    spans: Sequence[Span]
    labels: Sequence[float]


def spans(tags: Iterable[TokenTag], sources: Sequence[int], least: float = READ) -> list[Span]:
    """Read a stream's spans out of the tags that its tokens may carry, by tag, in the order of their first tokens. None
    crosses from one field (`sources`) into another; blanks are passed over.

    A span's confidence is the probability that the tag begins at its first token, goes on to its last one and ends
    there. Of those more probable than `least` that share tokens the most probable is read.
    """
    real = [at for at, source in enumerate(sources) if source >= 0]
    before = {at: one for one, at in pairwise(real) if sources[one] == sources[at]}
    runs: list[list[TokenTag]] = []
    latest: dict[int, list[TokenTag]] = {}  # of each tag
    for one in tags:
        run = latest.get(one.tag)
        if run is None or run[-1].token != before.get(one.token):
            latest[one.tag] = run = []
            runs.append(run)
        run.append(one)
    found = [span for run in runs for span in _most_probable(run, least)]
    return sorted(found, key=lambda span: (span.first, span.tag))


def _most_probable(run: Sequence[TokenTag], least: float) -> list[Span]:
    """The spans of a run of tokens that may carry one tag."""
    candidates: list[tuple[float, int, int]] = []
    for first in range(len(run)):
        reaches = run[first].begins  # how probable it is that a span begins at `first` and holds all up to `last`
        for last in range(first, len(run)):
            if last > first:
                before = run[last - 1]
                reaches *= min(1.0, run[last].goes_on / (before.begins + before.goes_on))
            if reaches <= least:
                break
            confidence = reaches * min(1.0, run[last].ends / (run[last].begins + run[last].goes_on))
            if confidence > least:
                candidates.append((min(confidence, _BELOW_ONE), first, last))
    kept: list[Span] = []
    taken = [False] * len(run)
    for confidence, first, last in sorted(candidates, reverse=True):
        if not any(taken[first : last + 1]):
            taken[first : last + 1] = [True] * (last + 1 - first)
            kept.append(Span(run[0].tag, run[first].token, run[last].token + 1, confidence))
    return kept
