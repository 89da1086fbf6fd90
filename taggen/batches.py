"""Labelled listings as rows for training: varied, similar lengths together, a label for each token."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taggen import windows
from taggen.augment import Augmenter
from taggen.base import Base
from taggen.corpus import Label, Labelled
from taggen.head import NO_TAG, begin_label
from taggen.windows import Prepared, Special

IGNORED = -100  # cross-entropy's own mark


class Batch(NamedTuple):
    """Windows of some listings: ids, mask and the BIO label of each token, each [rows, tokens]; which of the listings
    each row is of, [rows]; and the listings' own labels, [listings, M]."""

    ids: Tensor
    mask: Tensor
    targets: Tensor
    listings: Tensor
    labels: Tensor


def epoch(
    labelled: Sequence[Labelled], base: Base, augmenter: Augmenter, size: int, random_: random.Random
) -> list[list[tuple[Labelled, Prepared]]]:
    """Every listing once, varied, in batches of so many of similar length; the batches in random order."""
    varied = [augmenter.vary(item, random_) for item in labelled]
    prepared = windows.prepare([item.listing for item in varied], base.tokenizer, base.special)
    rows = sorted(zip(varied, prepared, strict=True), key=lambda row: (row[1].tokens, random_.random()))
    batches = [rows[at : at + size] for at in range(0, len(rows), size)]
    random_.shuffle(batches)
    return batches


def collate(
    batch: Sequence[tuple[Labelled, Prepared]], numbers: dict[str, int], labels: Sequence[Label], special: Special
) -> Batch:
    """The windows of some listings as a batch; `numbers` are those of the tags, from 1."""
    ids, mask = rows([prepared for _, prepared in batch], special)
    targets = torch.full(ids.shape, IGNORED, dtype=torch.long)
    listings: list[int] = []
    for number, (item, prepared) in enumerate(batch):
        its = token_labels(item, prepared, numbers)
        for window in prepared.windows:
            row = len(listings)
            targets[row, 1 : window.last - window.first + 1] = torch.tensor(its[window.first : window.last])
            listings.append(number)
    return Batch(ids, mask, targets, torch.tensor(listings), label_targets([item for item, _ in batch], labels))


def rows(prepared: Sequence[Prepared], special: Special) -> tuple[Tensor, Tensor]:
    """Ids and mask, [rows, tokens], of all windows of some listings, in order, padded to the longest."""
    tokens = [
        [special.start, *listing.ids[window.first : window.last], special.separator]
        for listing in prepared
        for window in listing.windows
    ]
    length = max(window.padded for listing in prepared for window in listing.windows)
    ids = torch.full((len(tokens), length), special.padding, dtype=torch.long)
    for row, its in enumerate(tokens):
        ids[row, : len(its)] = torch.tensor(its)
    return ids, torch.arange(length) < torch.tensor([len(its) for its in tokens])[:, None]


def label_targets(labelled: Sequence[Labelled], labels: Sequence[Label]) -> Tensor:
    """What each listing has of some labels, [listings, M]: 1 or 0, or IGNORED where nothing is known of the name."""
    return torch.tensor(
        [
            [float(value in item.labels[name]) if name in item.labels else IGNORED for name, value in labels]
            for item in labelled
        ],
        dtype=torch.float32,
    ).reshape(len(labelled), len(labels))


def token_labels(item: Labelled, prepared: Prepared, numbers: dict[str, int]) -> list[int]:
    """The label of each token of the stream: a token belongs to the span that holds at least half of it."""
    default = IGNORED if item.partial else NO_TAG
    labels = [IGNORED if source < 0 else default for source in prepared.sources]
    by_field: dict[str, list[tuple[int, int, int]]] = {}
    for span in item.spans:
        by_field.setdefault(span.field, []).append((span.start, span.end, numbers[span.tag]))
    last: tuple[int, int, int, int] | None = None
    for at, source in enumerate(prepared.sources):
        if source < 0:
            continue
        field = prepared.fields[source]
        _, start, end = field.clean.locate(prepared.starts[at], prepared.ends[at])
        for span_start, span_end, tag in by_field.get(field.name, ()):
            if 2 * (min(end, span_end) - max(start, span_start)) >= end - start:
                here = (source, span_start, span_end, tag)
                labels[at] = begin_label(tag) + (here == last)
                last = here
                break
    return labels
