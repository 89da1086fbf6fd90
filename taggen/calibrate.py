"""After training: confidences that mean what they say, and thresholds by them, set on the development part.

Both end in the adapter, the temperatures in the head's weights and the thresholds in the card: who serves it has to do
with neither.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from taggen import temperature, thresholds, trainable
from taggen.adapter import LabelType, TagType
from taggen.calibration import Outcome
from taggen.development import Development, Judged, Scores
from taggen.evaluate import Score


@dataclass(frozen=True, slots=True)
class Quality:
    """What the development part says of all tags, or all labels: their scores from a confidence of a half on, and at
    the tuned thresholds; and what the head's own scores were divided by."""

    temperature: float
    plain: Score
    tuned: Score


@dataclass(frozen=True, slots=True)
class Calibration:
    """Tags and labels with their thresholds, and what came of it; `precision` is the target, if there was one."""

    tags: tuple[TagType, ...]
    labels: tuple[LabelType, ...]
    of_tags: Quality
    of_labels: Quality
    precision: float | None

    def record(self) -> dict[str, Any]:
        """The figures for the card."""
        return {
            "precision_target": self.precision,
            **{
                name: {
                    "temperature": round(one.temperature, 3),
                    "at_a_half": one.plain.rounded(),
                    "at_thresholds": one.tuned.rounded(),
                }
                for name, one in (("tags", self.of_tags), ("labels", self.of_labels))
            },
        }


def calibrate(
    model: nn.Module,
    development: Development,
    tags: Sequence[TagType],
    labels: Sequence[LabelType],
    precision: float | None = None,
) -> Calibration:
    """Fold the temperatures into the trained model's head, and tune the thresholds: each for the best F1, or for the
    most recall at this precision."""
    plain = development.scores(model)
    of_tags = _span_temperature(plain, development)
    of_labels = temperature.of_labels(plain.labels, development.label_targets)
    temperature.fold(trainable.head_of(model), len(tags), of_tags, of_labels)
    scores = Scores(plain.tokens / of_tags, plain.labels / of_labels)

    spans = [Outcome(one.mention.tag, one.span.confidence, one.right) for one in _judge(scores, development)]
    marks = Counter(span.tag for item in development.labelled for span in set(item.spans))
    names = [f"{label.name}: {label.value}" for label in labels]
    known = (development.label_targets >= 0).nonzero().tolist()
    confidences, targets = scores.labels.sigmoid().tolist(), development.label_targets.tolist()
    listings = [Outcome(names[at], confidences[row][at], targets[row][at] > 0) for row, at in known]
    had = Counter(outcome.tag for outcome in listings if outcome.right)

    tag_thresholds = thresholds.tune(spans, {tag.name: marks[tag.name] for tag in tags}, precision)
    label_thresholds = thresholds.tune(listings, {name: had[name] for name in names}, precision)
    return Calibration(
        tuple(replace(tag, threshold=tag_thresholds[tag.name]) for tag in tags),
        tuple(replace(label, threshold=label_thresholds[name]) for label, name in zip(labels, names, strict=True)),
        _quality(of_tags, spans, tag_thresholds, marks.total()),
        _quality(of_labels, listings, label_thresholds, had.total()),
        precision,
    )


def _judge(scores: Scores, development: Development) -> list[Judged]:
    return development.judge(development.read(scores))


def _span_temperature(scores: Scores, development: Development) -> float:
    judged = _judge(scores, development)
    tokens, spans = development.places(judged)
    tags = torch.tensor([one.span.tag for one in judged], dtype=torch.long)
    right = torch.tensor([one.right for one in judged], dtype=torch.bool)
    return temperature.of_spans(
        lambda divisor: development.posteriors(scores.tokens / divisor)[tokens], tags[spans], spans, right
    )


def _quality(divisor: float, judged: Sequence[Outcome], tuned: Mapping[str, float], marked: int) -> Quality:
    halves = dict.fromkeys(tuned, 0.5)
    plain, at_thresholds = (
        Score(marked, found.total(), right.total())
        for found, right in (thresholds.kept(judged, at) for at in (halves, tuned))
    )
    return Quality(divisor, plain, at_thresholds)
