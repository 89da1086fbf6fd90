"""Where two adapters differ, and whether one is worse: a paired bootstrap over listings.

Both have tagged the same listings. Listings are drawn with replacement, and each draw scores both adapters on the very
same listings, so that what is hard for both cancels out (Berg-Kirkpatrick et al. 2012). The interval holds the middle
95 % of the differences.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taggen.confusion import Example, example, instead
from taggen.corpus import Labelled, Span
from taggen.evaluate import MICRO, Counts, counts, found, label_counts
from taggen.tag import Tagging

RESAMPLES = 1000
MARGIN = 0.01  # of F1

_CHUNK = 100  # draws held in memory at once
_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class Difference:
    """F1 of the new adapter less that of the old one, and the ends of its 95 % interval; shares, not percent."""

    delta: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Differences by tag, and over all tags under `micro`; those of listings' labels by name in the same way, none
    without labels; marks that only the new adapter finds, and those that only the old one finds, at most ten of each.
    """

    differences: dict[str, Difference]
    labels: dict[str, Difference]
    gained: tuple[Example, ...]
    lost: tuple[Example, ...]

    def worse(self, margin: float = MARGIN) -> bool:
        """Whether the new adapter must not replace the old one, by micro F1 of mentions or of labels.

        It is worse when the loss is certain (the whole interval lies below 0) or too large to take the risk (more than
        `margin`), however few the listings that say so.
        """
        micro = [some[MICRO] for some in (self.differences, self.labels) if some]
        return any(one.high < 0 or one.delta < -margin for one in micro)


def compare(
    labelled: Sequence[Labelled],
    new: Sequence[Tagging],
    old: Sequence[Tagging],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two adapters' taggings of the same listings."""
    labels = {}
    if any(item.labels for item in labelled):
        labels = _differences(labelled, (new, old), label_counts, resamples, seed)
    return Comparison(
        _differences(labelled, (new, old), counts, resamples, seed),
        labels,
        _only(labelled, new, old),
        _only(labelled, old, new),
    )


def _differences(
    labelled: Sequence[Labelled],
    taggings: Sequence[Sequence[Tagging]],
    count: Callable[[Labelled, Tagging], Counts],
    resamples: int,
    seed: int,
) -> dict[str, Difference]:
    names, both = _tables(labelled, taggings, count)
    random = np.random.default_rng(seed)
    listings = len(labelled)
    deltas = []
    for first in range(0, resamples, _CHUNK):
        draws = min(_CHUNK, resamples - first)
        weights = random.multinomial(listings, np.full(listings, 1 / listings), size=draws)
        deltas.append(_f1(weights @ both[0]) - _f1(weights @ both[1]))
    low, high = np.percentile(np.concatenate(deltas), (2.5, 97.5), axis=0)
    whole = np.ones((1, listings))
    delta = (_f1(whole @ both[0]) - _f1(whole @ both[1]))[0]
    return {name: Difference(float(delta[at]), float(low[at]), float(high[at])) for at, name in enumerate(names)}


def _tables(
    labelled: Sequence[Labelled], taggings: Sequence[Sequence[Tagging]], count: Callable[[Labelled, Tagging], Counts]
) -> tuple[list[str], list[NDArray[np.float64]]]:
    """Tag names with `micro` first, and for each tagger its counts [listings, 2 * names]: first the mentions that are
    right, then those marked or found (F1 is twice the former over the latter)."""
    counted = [[count(item, tagging) for item, tagging in zip(labelled, some, strict=True)] for some in taggings]
    seen = {tag for some in counted for marked, mentions, _ in some for tag in (*marked, *mentions)}
    names = [MICRO, *sorted(seen)]
    tables = []
    for some in counted:
        table = np.zeros((len(labelled), 2 * len(names)))
        for row, (marked, mentions, right) in zip(table, some, strict=True):
            for at, name in enumerate(names[1:], 1):
                row[at] = right[name]
                row[len(names) + at] = marked[name] + mentions[name]
        table[:, 0] = table[:, 1 : len(names)].sum(1)
        table[:, len(names)] = table[:, len(names) + 1 :].sum(1)
        tables.append(table)
    return names, tables


def _f1(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 [draws, names] out of sums [draws, 2 * names]; 0 where nothing is marked or found."""
    right, mentions = np.hsplit(sums, 2)
    return 2 * right / np.maximum(mentions, 1)


def _only(labelled: Sequence[Labelled], one: Sequence[Tagging], other: Sequence[Tagging]) -> tuple[Example, ...]:
    """Marks that the one finds and the other does not, ten spread over the tags; with what the other found instead."""
    by_tag: dict[str, list[Example]] = {}
    for item, first, second in zip(labelled, one, other, strict=True):
        marked, others = set(item.spans), found(item, second)
        for mention in _in_order((marked & found(item, first)) - others):
            found_ = instead(mention, others - marked)
            by_tag.setdefault(mention.tag, []).append(example(item, mention, mention.tag, found_))
    ranked = [(rank, tag, one) for tag, examples in sorted(by_tag.items()) for rank, one in enumerate(examples)]
    return tuple(example for _, _, example in sorted(ranked, key=lambda row: row[:2])[:_EXAMPLES])


def _in_order(mentions: Iterable[Span]) -> list[Span]:
    return sorted(mentions, key=lambda mention: (mention.field, mention.start, mention.end))
