"""The sequence-labelling head: tokens to spans, plain BIO (Ramshaw & Marcus 1995).

Label 0 is "no tag"; tag k (from 1) has the labels 2k-1 (begins) and 2k (goes on).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

NO_TAG = 0


def begin_label(tag: int) -> int:
    """The label of a token that begins tag `tag` (1 to K)."""
    return 2 * tag - 1


def label_count(tags: int) -> int:
    """Labels for a set of so many tags."""
    return 2 * tags + 1


class TaggerModel(nn.Module):
    """An encoder with the head on its last hidden state: what PEFT wraps in training, and what defines the names in an
    adapter's tensors (`encoder.*` with LoRA, `head.*` whole)."""

    def __init__(self, encoder: nn.Module, hidden_size: int, labels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(hidden_size, labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Label scores, float32 [rows, tokens, labels], for ids [rows, tokens] and mask [rows, 1, 1, tokens].

        The mask has four dimensions because transformers drops a two-dimensional one that masks nothing, and another
        attention kernel with other bits runs: a row's scores would depend on its neighbours' padding.
        """
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        scores: Tensor = self.head(hidden)
        return scores.float()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the head says of each token: the most probable tag (0 for none), whether it begins there, and the
    probability of that tag. Each [rows, tokens], on the CPU."""

    tags: Tensor
    begins: Tensor
    confidences: Tensor


def read(scores: Tensor) -> Reading:
    """Read label scores [rows, tokens, labels]. A tag's probability is that of its two labels together."""
    probabilities = scores.softmax(-1)
    begin, inside = probabilities[..., 1::2], probabilities[..., 2::2]
    by_tag = torch.cat((probabilities[..., :1], begin + inside), -1)
    confidences, tags = by_tag.max(-1)
    place = (tags - 1).clamp(min=0)[..., None]
    begins = (begin.gather(-1, place) > inside.gather(-1, place))[..., 0]
    return Reading(tags.cpu(), begins.cpu(), confidences.cpu())


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `first` to `last` (exclusive) of a listing's stream carry `tag` (1 to K)."""

    tag: int
    first: int
    last: int
    confidence: float


def spans(
    tags: Sequence[int], begins: Sequence[bool], confidences: Sequence[float], sources: Sequence[int]
) -> list[Span]:
    """Join a stream's tokens into spans; none crosses from one field (`sources`, -1 for no field) into another.

    A span's confidence is the mean over its tokens.
    """
    found = []
    first = -1
    for at in range(len(tags) + 1):
        goes_on = (
            first >= 0
            and at < len(tags)
            and tags[at] == tags[first]
            and sources[at] == sources[first]
            and not begins[at]
        )
        if goes_on:
            continue
        if first >= 0:
            found.append(Span(tags[first], first, at, sum(confidences[first:at]) / (at - first)))
        first = at if at < len(tags) and tags[at] != NO_TAG and sources[at] >= 0 else -1
    return found
