"""Labelled listings as rows for training: varied, similar lengths together, labels for each token."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from taggen import windows
from taggen.augment import Augmenter
from taggen.base import Base
from taggen.corpus import Label, Labelled, Span
from taggen.head import BEGINS, GOES_ON
from taggen.windows import Prepared, Special

IGNORED = -100  # nobody knows


class Batch(NamedTuple):
    """Windows of some listings: ids and mask, [rows, tokens]; what each tag does at each token, and whether it can go
    on there, [rows, tokens, K]; which of the listings each row is of, [rows]; and the listings' own labels,
    [listings, M]."""

    ids: Tensor
    mask: Tensor
    targets: Tensor
    open: Tensor
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
    targets = torch.full((*ids.shape, len(numbers)), IGNORED)
    open_ = torch.zeros_like(targets, dtype=torch.bool)
    listings: list[int] = []
    for number, (item, prepared) in enumerate(batch):
        its = token_labels(item, prepared, numbers)
        for window in prepared.windows:
            row, place = len(listings), slice(1, window.last - window.first + 1)
            targets[row, place], open_[row, place] = (one[window.first : window.last] for one in its)
            listings.append(number)
    return Batch(ids, mask, targets, open_, torch.tensor(listings), label_targets([item for item, _ in batch], labels))


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


def token_labels(item: Labelled, prepared: Prepared, numbers: dict[str, int]) -> tuple[Tensor, Tensor]:
    """What each tag does at each token of the stream, [tokens, K]: BEGINS, GOES_ON or 0; IGNORED, for all tags, where
    nobody knows. And whether it can go on there, [tokens, K]: where the field's token before carries it, blanks aside.
    A token belongs to the spans that hold at least half of it."""
    labels = torch.full((len(prepared.ids), len(numbers)), IGNORED if item.partial else 0)
    open_ = torch.zeros_like(labels, dtype=torch.bool)
    labels[torch.tensor(prepared.sources, dtype=torch.long) < 0] = IGNORED
    by_field: dict[str, list[Span]] = {}
    for span in item.spans:
        by_field.setdefault(span.field, []).append(span)
    latest: dict[str, Span] = {}  # by tag, of the field's token before
    before = None
    for at, source in enumerate(prepared.sources):
        if source < 0:
            continue
        if source != before:
            latest, before = {}, source
        for tag in latest:
            open_[at, numbers[tag] - 1] = True
        field = prepared.fields[source]
        _, start, end = field.clean.locate(prepared.starts[at], prepared.ends[at])
        here: dict[str, Span] = {}
        for span in by_field.get(field.name, ()):
            if 2 * (min(end, span.end) - max(start, span.start)) >= end - start:
                here.setdefault(span.tag, span)
        if here:
            labels[at] = 0  # whoever marked a token has looked at it
        for tag, span in here.items():
            labels[at, numbers[tag] - 1] = GOES_ON if latest.get(tag) == span else BEGINS
        latest = here
    return labels, open_
