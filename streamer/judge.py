"""Whether a version is good enough to publish: compared with what serves now, on listings that somebody labelled."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taggen import evaluate
from taggen.adapter import Adapter
from taggen.compare import Difference, compare
from taggen.corpus import Labelled
from taggen.evaluate import MICRO, Score
from taggen.tag import Tagging
from taggen.tagger import Tagger

BATCH_LISTINGS = 32


class Contest(NamedTuple):
    """F1 of a version and of what serves now on the same listings, and the 95 % interval of the difference; shares, not
    percent."""

    f1: float
    in_use: float
    low: float
    high: float


class Judgement(NamedTuple):
    """A version against what serves now (`in_use`): on mentions, and on listing-level labels where the listings have
    any; `worse` when it must not replace it."""

    in_use: str
    listings: int
    mentions: Contest
    labels: Contest | None
    worse: bool


def judge(
    tagger: Tagger, adapter: Adapter, in_use: Adapter | None, labelled: Sequence[Labelled], margin: float
) -> Judgement:
    """Score an adapter and the one in use (None: the default adapter) on labelled listings.

    `worse` as in `Comparison.worse`; `margin` in shares of F1. Raises NonFiniteScores and DeviceError.
    """
    new, old = _tag(tagger, adapter, labelled), _tag(tagger, in_use, labelled)
    comparison = compare(labelled, new, old)
    model = tagger.model if in_use is None else tagger.model_of(in_use, 0)
    labels = None
    if comparison.labels:
        scores = evaluate.label_score(labelled, new), evaluate.label_score(labelled, old)
        labels = _contest(*scores, comparison.labels)
    mentions = _contest(evaluate.score(labelled, new), evaluate.score(labelled, old), comparison.differences)
    return Judgement(f"{model.adapter} {model.version}", len(labelled), mentions, labels, comparison.worse(margin))


def _contest(new: Mapping[str, Score], old: Mapping[str, Score], differences: Mapping[str, Difference]) -> Contest:
    micro = differences[MICRO]
    return Contest(new[MICRO].f1, old[MICRO].f1, micro.low, micro.high)


def _tag(tagger: Tagger, adapter: Adapter | None, labelled: Sequence[Labelled]) -> list[Tagging]:
    slot = tagger.acquire(adapter) if adapter is not None else None
    try:
        taggings: list[Tagging] = []
        for at in range(0, len(labelled), BATCH_LISTINGS):
            prepared = tagger.prepare([item.listing for item in labelled[at : at + BATCH_LISTINGS]])
            taggings += tagger.tag(prepared, None if slot is None else [slot] * len(prepared))
        return taggings
    finally:
        if slot is not None:
            tagger.release(slot)
