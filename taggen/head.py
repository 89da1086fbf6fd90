"""The head: one linear layer that says of each token which tag it carries, and of the listing which labels it has.

Of its 2K+1+M outputs for K tags and M listing-level labels the first 2K+1 are BIO (Ramshaw & Marcus 1995), read over
each field as a chain (taggen.chain): output 0 is "no tag"; tag k (from 1) has 2k-1 (begins) and 2k (goes on). The last
M are read at the start token alone, a logit for each label, which has nothing to do with the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taggen.windows import BLANK, NO_FIELD

NO_TAG = 0

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


@dataclass(frozen=True, slots=True)
class Reading:
    """What the head says of each token: the most probable tag (0 for none), whether it begins there, and the
    probability of that tag, each [rows, tokens]; and of each row the probabilities of the listing-level labels,
    [rows, M]. On the CPU."""

    tags: Tensor
    begins: Tensor
    confidences: Tensor
    labels: Tensor


def reading(probabilities: Tensor, logits: Tensor) -> Reading:
    """Read the probabilities of BIO labels [rows, tokens, 2K+1], with or without some that are zero behind them, and
    the logits of labels [rows, M]. A tag's probability is that of its two BIO labels together."""
    inside = probabilities[..., 2::2]
    begin = probabilities[..., 1::2][..., : inside.shape[-1]]
    by_tag = torch.cat((probabilities[..., :1], begin + inside), -1)
    confidences, best = by_tag.clamp(max=_BELOW_ONE).max(-1)
    ahead = torch.cat((torch.zeros_like(by_tag[..., :1], dtype=torch.bool), begin > inside), -1)
    begins = ahead.gather(-1, best[..., None])[..., 0]
    return Reading(best.cpu(), begins.cpu(), confidences.cpu(), _sigmoid(logits).clamp(max=_BELOW_ONE).cpu())


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


def spans(
    tags: Sequence[int], begins: Sequence[bool], confidences: Sequence[float], sources: Sequence[int]
) -> list[Span]:
    """Join a stream's tokens into spans; none crosses from one field (`sources`) into another, blanks are passed over.

    A span's confidence is the mean over its tokens.
    """
    found: list[list[int]] = []
    before = NO_FIELD  # the field of the token before, if that token carries a tag
    for at, (tag, begins_here, source) in enumerate(zip(tags, begins, sources, strict=True)):
        if source == BLANK:
            continue
        if tag == NO_TAG or source == NO_FIELD:
            before = NO_FIELD
        elif source == before and tag == tags[found[-1][0]] and not begins_here:
            found[-1].append(at)
        else:
            found.append([at])
            before = source
    return [
        Span(tags[tokens[0]], tokens[0], tokens[-1] + 1, sum(confidences[at] for at in tokens) / len(tokens))
        for tokens in found
    ]
