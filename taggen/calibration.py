"""Whether confidences are to be believed: reliability, expected calibration error, precision against recall.

All mentions that the head reads count here, those below their tags' thresholds too: where the threshold should lie is
what one wants to see. The head has a level of its own, below which it reads no tag (taggen.head). It reads a listing's
label from a probability of `READ` on: the many that it is sure are not there would hide all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from taggen.corpus import Labelled
from taggen.evaluate import Output, counted

BINS = 10
READ = 0.1
PRECISION = 0.95  # what `coverage` asks for


@dataclass(frozen=True, slots=True)
class Outcome:
    """A mention or label that the head read under a tag's name, its confidence in 0 to 1, and whether it is right."""

    tag: str
    confidence: float
    right: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """Mentions (and labels) of confidence `low` to `high`: how many, mean confidence, and the share that is right."""

    low: float
    high: float
    mentions: int
    confidence: float
    precision: float


def outcomes(labelled: Sequence[Labelled], outputs: Sequence[Output]) -> list[Outcome]:
    """Every mention read in the labelled listings, judged."""
    judged = []
    for item, output in zip(labelled, outputs, strict=True):
        marked, taken = set(item.spans), counted(item, set(output.mentions))
        judged += [
            Outcome(mention.tag, confidence, mention in marked)
            for mention, confidence in output.mentions.items()
            if mention in taken
        ]
    return judged


def label_outcomes(labelled: Sequence[Labelled], outputs: Sequence[Output]) -> list[Outcome]:
    """Every label read in the labelled listings of whose name something is known there, judged."""
    return [
        Outcome(name, confidence, value in item.labels[name])
        for item, output in zip(labelled, outputs, strict=True)
        for (name, value), confidence in output.labels.items()
        if name in item.labels and confidence >= READ
    ]


def reliability(judged: Sequence[Outcome], bins: int = BINS) -> list[Bin]:
    """Bins of equal width over 0 to 1, the last with both of its ends; bins without mentions are left out."""
    filled: list[list[Outcome]] = [[] for _ in range(bins)]
    for outcome in judged:
        filled[min(int(outcome.confidence * bins), bins - 1)].append(outcome)
    return [
        Bin(
            number / bins,
            (number + 1) / bins,
            len(some),
            sum(outcome.confidence for outcome in some) / len(some),
            sum(outcome.right for outcome in some) / len(some),
        )
        for number, some in enumerate(filled)
        if some
    ]


def calibration_error(reliable: Sequence[Bin]) -> float:
    """Expected calibration error (Naeini et al. 2015): the mean gap between confidence and precision of the bins,
    weighted by their mentions; 0 where there are none."""
    mentions = sum(one.mentions for one in reliable)
    return sum(one.mentions * abs(one.confidence - one.precision) for one in reliable) / mentions if mentions else 0.0


@dataclass(frozen=True, slots=True)
class Point:
    """Precision and recall of the mentions with at least this confidence."""

    confidence: float
    precision: float
    recall: float


def precision_recall(judged: Sequence[Outcome], marked: int) -> list[Point]:
    """One point for each confidence that occurs, from the highest down; `marked` mentions could be found."""
    points: list[Point] = []
    ordered = sorted(judged, key=lambda outcome: -outcome.confidence)
    right = 0
    for number, outcome in enumerate(ordered, 1):
        right += outcome.right
        if number == len(ordered) or ordered[number].confidence < outcome.confidence:
            points.append(Point(outcome.confidence, right / number, right / marked if marked else 0.0))
    return points


def coverage(curve: Sequence[Point], precision: float = PRECISION) -> float:
    """The most recall there is at this precision, 0 if it is not reached: what could go out with no second look."""
    return max((point.recall for point in curve if point.precision >= precision), default=0.0)
