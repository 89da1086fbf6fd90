"""Whether a version is good enough to publish: compared with what serves now, on listings that somebody labelled."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from taggen import compare, evaluate
from taggen.adapter import Adapter
from taggen.corpus import Labelled
from taggen.tag import Tagging
from taggen.tagger import Tagger

BATCH_LISTINGS = 32


class Judgement(NamedTuple):
    """F1 over all tags of a version and of what serves now, on the same listings, and the 95 % interval of the
    difference; shares, not percent."""

    listings: int
    f1: float
    in_use: str
    in_use_f1: float
    difference: tuple[float, float]
    worse: bool


def judge(
    tagger: Tagger,
    adapter: Adapter,
    in_use: Adapter | None,
    labelled: Sequence[Labelled],
    margin: float,
    progress: Callable[[int], None] = lambda listings: None,
) -> Judgement:
    """Score an adapter and the one in use (None: the default adapter) on labelled listings.

    `worse` as in `Comparison.worse`; `margin` in shares of F1. Raises NonFiniteScores and DeviceError.
    """
    new = _tag(tagger, adapter, labelled, progress)
    old = _tag(tagger, in_use, labelled, lambda listings: progress(len(labelled) + listings))
    comparison = compare.compare(labelled, new, old)
    micro = comparison.differences[evaluate.MICRO]
    model = tagger.model if in_use is None else tagger.model_of(in_use, 0)
    return Judgement(
        len(labelled),
        evaluate.score(labelled, new)[evaluate.MICRO].f1,
        f"{model.adapter} {model.version}",
        evaluate.score(labelled, old)[evaluate.MICRO].f1,
        (micro.low, micro.high),
        comparison.worse(margin),
    )


def _tag(
    tagger: Tagger, adapter: Adapter | None, labelled: Sequence[Labelled], progress: Callable[[int], None]
) -> list[Tagging]:
    slot = tagger.acquire(adapter) if adapter is not None else None
    try:
        taggings: list[Tagging] = []
        for at in range(0, len(labelled), BATCH_LISTINGS):
            prepared = tagger.prepare([item.listing for item in labelled[at : at + BATCH_LISTINGS]])
            taggings += tagger.tag(prepared, None if slot is None else [slot] * len(prepared))
            progress(len(taggings))
        return taggings
    finally:
        if slot is not None:
            tagger.release(slot)
