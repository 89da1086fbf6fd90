"""The sequence-labelling head: tokens to spans, plain BIO (Ramshaw & Marcus 1995).

Label 0 is "no tag"; tag k (from 1) has the labels 2k-1 (begins) and 2k (goes on).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from taggen.windows import BLANK, NO_FIELD

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
        """Label scores, float32 [rows, tokens, labels], for ids and mask [rows, tokens]."""
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
    confidences, tags = by_tag.clamp(max=1).max(-1)  # two rounded halves may sum up to more
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
