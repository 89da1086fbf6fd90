"""Heads of different widths in paged memory, read together.

A head takes some pages of 32 outputs for its BIO labels and some for its listing-level labels (taggen.head). Outputs
that a head does not have are masked by a bias of minus infinity: their probability is exactly zero.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taggen.adapter import Adapter, Card
from taggen.errors import AdapterError
from taggen.head import label_count
from taggen.pages import Group, gather, page_count

PAGE_OUTPUTS = 32


class Scores(NamedTuple):
    """What the heads say of some rows, float32: BIO scores [rows, tokens, 32 b], label logits [rows, 32 m], minus
    infinity where a head has no output; `finite`, a tensor, is whether all others are finite."""

    tags: Tensor
    labels: Tensor
    finite: Tensor


def bio_pages(card: Card) -> int:
    """Pages of the BIO labels."""
    return page_count(label_count(len(card.tags)), PAGE_OUTPUTS)


def label_pages(card: Card) -> int:
    """Pages of the listing-level labels; may be 0."""
    return page_count(len(card.labels), PAGE_OUTPUTS)


class HeadPages:
    """The memory of all adapters' heads: weights [pages, 32, hidden] in the compute dtype, biases in float32."""

    def __init__(self, hidden: int, pages: int, dtype: torch.dtype, device: torch.device) -> None:
        self._weight = torch.empty(pages, PAGE_OUTPUTS, hidden, dtype=dtype, device=device)
        self._bias = torch.empty(pages, PAGE_OUTPUTS, 1, device=device)

    def image(self, adapter: Adapter) -> tuple[Tensor, Tensor]:
        """The adapter's head as it goes into its pages: weight and bias, on the CPU. Raises AdapterError (shapes)."""
        card = adapter.card
        weight, bias = adapter.head()
        hidden = self._weight.shape[2]
        if weight.shape[1] != hidden:
            raise AdapterError(f"adapter {card.name}: the head is {weight.shape[1]} wide, not {hidden}", "shapes")
        outputs = PAGE_OUTPUTS * (bio_pages(card) + label_pages(card))
        padded = torch.zeros(outputs, hidden, dtype=self._weight.dtype)
        masked = torch.full((outputs,), -math.inf)
        bio, labels = label_count(len(card.tags)), PAGE_OUTPUTS * bio_pages(card)
        for target, source in ((padded, weight), (masked, bias)):
            target[:bio] = source[:bio]
            target[labels : labels + len(card.labels)] = source[bio:]
        return padded.view(-1, PAGE_OUTPUTS, hidden), masked.view(-1, PAGE_OUTPUTS, 1)

    def fill(self, pages: Sequence[int], image: tuple[Tensor, Tensor]) -> None:
        """Copy a head's image into its pages."""
        for memory, part in zip((self._weight, self._bias), image, strict=True):
            for page, content in zip(pages, part, strict=True):
                memory[page].copy_(content)

    def scores(self, hidden: Tensor, group: Group, bio: int) -> Scores:
        """Score a group's hidden states [rows, tokens, hidden]; `bio` of its heads' pages are those of BIO labels."""
        weight, bias = gather(self._weight, group, hidden.dtype), gather(self._bias, group, torch.float32)
        bias = bias.transpose(1, 2)
        outputs = PAGE_OUTPUTS * bio
        tags = torch.bmm(hidden, weight[:, :outputs].transpose(1, 2)).float()
        labels = torch.bmm(hidden[:, :1], weight[:, outputs:].transpose(1, 2)).float()
        finite = torch.isfinite(tags).all() & torch.isfinite(labels).all()
        return Scores(tags + bias[..., :outputs], (labels + bias[..., outputs:])[:, 0], finite)

    @staticmethod
    def page_bytes(hidden: int, dtype: torch.dtype) -> int:
        """Bytes of a page."""
        return PAGE_OUTPUTS * (hidden * dtype.itemsize + 4)
