"""Thresholds: from which confidence on a tag is kept, tuned on the development part.

Without a target, each tag has the threshold of the best F1; with one, the lowest at which its precision reaches it. A
tag with few examples must not follow their whims: it is tuned as if it had `PRIOR` more, which behave as all tags'
examples do together. With none of its own it has the threshold that is best for all.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from taggen.calibration import Outcome

PRIOR = 20  # examples

_GRID = np.arange(101) / 100  # thresholds that are tried; without any example all are as good, and 0.5 is taken
_Counts = NDArray[np.float64]  # by threshold


def tune(
    judged: Sequence[Outcome], marked: Mapping[str, int], precision: float | None = None, prior: int = PRIOR
) -> dict[str, float]:
    """A threshold for each tag of `marked`, which counts the marks that there are to be found.

    `judged` is everything that the head reads, whatever its confidence. With `precision` in 0 to 1, no tag's precision
    on these examples is below it; a tag that does not reach it has the threshold 1.
    """
    confidences: dict[tuple[str, bool], list[float]] = defaultdict(list)
    for outcome in judged:
        confidences[outcome.tag, outcome.right].append(outcome.confidence)
    right = {tag: _from(confidences[tag, True]) for tag in marked}
    found = {tag: right[tag] + _from(confidences[tag, False]) for tag in marked}
    all_marked = sum(marked.values())
    all_right: _Counts = sum(right.values(), np.zeros(len(_GRID)))
    all_found: _Counts = sum(found.values(), np.zeros(len(_GRID)))
    places = {}
    for tag, marks in marked.items():
        if precision is not None:
            likely = right[tag] + prior * _over(all_right, all_found) >= precision * (found[tag] + prior)
            seen = found[tag] > 0 if found[tag].any() else all_found > 0
            places[tag] = _lowest(seen & likely & (right[tag] >= precision * found[tag]))
        else:
            share = prior / max(1, all_marked)
            both = 2 * (right[tag] + share * all_right)
            places[tag] = _highest(_over(both, marks + prior + found[tag] + share * all_found))
    return {tag: float(_GRID[place]) for tag, place in places.items()}


def kept(judged: Sequence[Outcome], thresholds: Mapping[str, float]) -> tuple[Counter[str], Counter[str]]:
    """Outcomes found and right by tag, those that reach their tag's threshold."""
    reaching = [outcome for outcome in judged if outcome.confidence >= thresholds[outcome.tag]]
    return (
        Counter(outcome.tag for outcome in reaching),
        Counter(outcome.tag for outcome in reaching if outcome.right),
    )


def _from(confidences: Sequence[float]) -> _Counts:
    """How many reach each threshold."""
    reach: _Counts = len(confidences) - np.searchsorted(np.sort(confidences), _GRID).astype(np.float64)
    return reach


def _over(one: _Counts, other: _Counts) -> _Counts:
    """One over the other, 0 where that is 0."""
    return np.divide(one, other, out=np.zeros(len(_GRID)), where=other > 0)


def _highest(curve: _Counts) -> int:
    """The middle place of those with the highest value: as far from both sides' examples as can be."""
    places = np.flatnonzero(curve >= curve.max() - 1e-9)
    return int(places[len(places) // 2])


def _lowest(reached: NDArray[np.bool_]) -> int:
    """The first place that counts, the last one if none does."""
    places = np.flatnonzero(reached)
    return int(places[0]) if len(places) else len(_GRID) - 1
