"""The results of an evaluation together: as a JSON object, as tables, as a picture."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from taggen import calibration, confusion, corpus, evaluate, picture
from taggen.adapter import Card
from taggen.calibration import Bin, Point
from taggen.compare import Comparison, Difference
from taggen.confusion import Confusion, Example
from taggen.corpus import Labelled
from taggen.evaluate import MICRO, Score
from taggen.tag import Model, Tagging
from taggen.tagger import Tagger


@dataclass(frozen=True)
class Scorecard:
    """Scores by tag and over all (`micro`), those of listings' labels by name, confidences of both, mistakes, and the
    comparison with another adapter if there was one. `seconds` is the time of tagging, reading and loading apart."""

    model: Model
    listings: int
    seconds: float
    exact: dict[str, Score]
    partial: dict[str, Score]
    languages: dict[str, dict[str, Score]]  # and `all`; exact
    labels: dict[str, Score]  # none where the data have none
    reliable: list[Bin]
    curve: list[Point]  # of mentions
    label_curve: list[Point]
    worst: list[Confusion]
    unknown: tuple[str, ...]  # tags and labels of the data that the adapter does not have: they count as missed
    other: Model | None = None
    comparison: Comparison | None = None

    @property
    def title(self) -> str:
        """What was evaluated, on one line."""
        model = self.model
        return f"{model.adapter} {model.version} on {model.base}, {model.quantization} {model.compute_dtype}"

    def json(self) -> dict[str, Any]:
        """Everything; scores in percent, differences in points of F1."""
        content: dict[str, Any] = {
            "model": asdict(self.model),
            "listings": self.listings,
            "seconds": round(self.seconds, 2),
            "exact": {name: _figures(one) for name, one in self.exact.items()},
            "partial": {name: _figures(one) for name, one in self.partial.items()},
            "languages": {name: _figures(by_tag[MICRO]) for name, by_tag in self.languages.items()},
            "labels": {name: _figures(one) for name, one in self.labels.items()},
            "coverage": self._coverage(),
            "calibration": {
                "error": round(100 * calibration.calibration_error(self.reliable), 2),
                "bins": [asdict(one) for one in self.reliable],
            },
            "worst": [asdict(one) for one in self.worst],
            "unknown_tags": list(self.unknown),
        }
        if self.other is not None and self.comparison is not None:
            content["comparison"] = {
                "other": asdict(self.other),
                "differences": {name: _points(one) for name, one in self.comparison.differences.items()},
                "labels": {name: _points(one) for name, one in self.comparison.labels.items()},
                "gained": [asdict(one) for one in self.comparison.gained],
                "lost": [asdict(one) for one in self.comparison.lost],
            }
        return content

    def summary(self) -> dict[str, Any]:
        """What goes into an adapter's card: by language and tag, labels, coverage."""
        labels = {name: one.rounded() for name, one in self.labels.items()}
        return {**evaluate.card(self.languages), "labels": labels, "coverage": self._coverage()}

    def print(self, console: Console) -> None:
        """Print the tables."""
        tables = (_tags(self), *_labels(self), _reliability(self.reliable))
        for part in (*tables, *_worst(self.worst), *self._compared()):
            console.print(part, soft_wrap=isinstance(part, Text), highlight=False)
            console.print()
        rate = self.listings / self.seconds if self.seconds else 0.0
        console.print(f"{self.listings} listings in {self.seconds:.1f} s ({rate:.1f} a second)", highlight=False)
        if self.unknown:
            names = escape(", ".join(self.unknown))
            console.print(f"In the data but not in the adapter, counted as missed: {names}")

    def draw(self, path: Path) -> None:
        """Write the picture."""
        picture.draw(path, self.title, self.exact, self.partial, self.curve, self.reliable)

    def _coverage(self) -> dict[str, float | None]:
        """Shares of what there is, in percent."""
        return {
            "precision": calibration.PRECISION,
            "mentions": round(100 * calibration.coverage(self.curve), 1),
            "labels": round(100 * calibration.coverage(self.label_curve), 1) if self.labels else None,
        }

    def _compared(self) -> list[RenderableType]:
        if self.other is None or self.comparison is None:
            return []
        against = f"against {self.other.adapter} {self.other.version}: F1 in points"
        tables = [_differences(against, "tag", self.comparison.differences)]
        if self.comparison.labels:
            tables.append(_differences(against, "label", self.comparison.labels))
        only = (
            ("found by this one only: what is marked > what the other one finds", self.comparison.gained),
            ("found by the other one only: what is marked > what this one finds", self.comparison.lost),
        )
        return [*tables, *(_examples(title, examples) for title, examples in only if examples)]


def run(
    tagger: Tagger, labelled: Sequence[Labelled], progress: Callable[[int], None] = lambda listings: None
) -> tuple[Scorecard, list[Tagging]]:
    """Tag labelled listings and score the outcome; the taggings come along for a comparison."""
    started = time.monotonic()
    outputs = evaluate.read_all(tagger, labelled, progress=progress)
    seconds = time.monotonic() - started
    taggings = [output.tagging for output in outputs]
    mentions, labels = calibration.outcomes(labelled, outputs), calibration.label_outcomes(labelled, outputs)
    exact, label_score = evaluate.score(labelled, taggings), evaluate.label_score(labelled, taggings)
    label_marks = label_score[MICRO].marked if label_score else 0
    card = Scorecard(
        tagger.model,
        len(labelled),
        seconds,
        exact,
        evaluate.score(labelled, taggings, partial=True),
        evaluate.by_language(labelled, taggings),
        label_score,
        calibration.reliability([*mentions, *labels]),
        calibration.precision_recall(mentions, exact[MICRO].marked),
        calibration.precision_recall(labels, label_marks),
        confusion.worst(labelled, taggings),
        _unknown(labelled, tagger.card),
    )
    return card, taggings


def _unknown(labelled: Sequence[Labelled], card: Card) -> tuple[str, ...]:
    tags = {span.tag for item in labelled for span in item.spans} - {tag.name for tag in card.tags}
    labels = set(corpus.label_set(labelled)) - {(label.name, label.value) for label in card.labels}
    return (*sorted(tags), *(f"{name} = {value}" for name, value in sorted(labels)))


def _figures(score: Score) -> dict[str, float | int]:
    return {**score.rounded(), "found": score.found, "right": score.right}


def _points(difference: Difference) -> dict[str, float]:
    return {name: round(100 * value, 2) for name, value in asdict(difference).items()}


def _tags(card: Scorecard) -> Table:
    covered = _covered(100 * calibration.coverage(card.curve))
    table = Table("#", "tag", title=escape(f"{card.title}: {covered}"), title_justify="left")
    for column in ("marked", "found", "precision", "recall", "F1", "partial F1"):
        table.add_column(column, justify="right")
    rows = [("", MICRO), *((str(number), name) for number, name in enumerate(picture.in_order(card.exact), 1))]
    for number, name in rows:
        one = card.exact[name]
        figures = (one.precision, one.recall, one.f1, card.partial[name].f1)
        table.add_row(
            number,
            escape(name),
            str(one.marked),
            str(one.found),
            *(f"{100 * figure:.1f}" for figure in figures),
            style="bold" if name == MICRO else "",
        )
    for language, by_tag in card.languages.items():
        one = by_tag[MICRO]
        if language != "all" and len(card.languages) > 2:
            figures_ = (f"{100 * figure:.1f}" for figure in (one.precision, one.recall, one.f1))
            table.add_row(
                "", f"all in {escape(language) or 'no locale'}", str(one.marked), str(one.found), *figures_, ""
            )
    return table


def _labels(card: Scorecard) -> list[RenderableType]:
    if not card.labels:
        return []
    covered = 100 * calibration.coverage(card.label_curve)
    table = Table("label", title=f"listings as wholes: {_covered(covered)}", title_justify="left")
    for column in ("listings", "found", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
    for name, one in sorted(card.labels.items(), key=lambda item: (item[0] != MICRO, -item[1].marked)):
        figures = (f"{100 * figure:.1f}" for figure in (one.precision, one.recall, one.f1))
        table.add_row(escape(name), str(one.marked), str(one.found), *figures, style="bold" if name == MICRO else "")
    return [table]


def _covered(share: float) -> str:
    return f"{share:.1f} % covered at a precision of {calibration.PRECISION:g}"


def _differences(title: str, what: str, differences: Mapping[str, Difference]) -> Table:
    table = Table(what, title=title, title_justify="left")
    for column in ("difference", "95 % from", "to"):
        table.add_column(column, justify="right")
    for name, one in sorted(differences.items(), key=lambda item: (item[0] != MICRO, item[1].delta)):
        style = "red" if one.high < 0 else "green" if one.low > 0 else ""
        table.add_row(escape(name), *(f"{100 * value:+.1f}" for value in (one.delta, one.low, one.high)), style=style)
    return table


def _reliability(reliable: Sequence[Bin]) -> Table:
    error = 100 * calibration.calibration_error(reliable)
    table = Table("confidence", title=f"reliability: expected calibration error {error:.1f} %", title_justify="left")
    for column in ("read", "mean", "right"):
        table.add_column(column, justify="right")
    for one in reliable:
        shares = (f"{100 * one.confidence:.0f} %", f"{100 * one.precision:.0f} %")
        table.add_row(f"{one.low:.1f} - {one.high:.1f}", str(one.mentions), *shares)
    return table


def _worst(worst: Sequence[Confusion]) -> list[RenderableType]:
    if not worst:
        return []
    table = Table("tag", title="the tags with the most mistakes", title_justify="left")
    for column in ("missed", "false"):
        table.add_column(column, justify="right")
    table.add_column("missed, and found there")
    table.add_column("false, and marked there")
    for one in worst:
        table.add_row(escape(one.tag), str(one.missed), str(one.false), _most(one.taken_for), _most(one.taken_from))
    return [
        table,
        _examples("mistakes: what is marked > what is found", [example for one in worst for example in one.examples]),
    ]


def _most(counted: Mapping[str, int]) -> str:
    return escape(", ".join(f"{name} {count}" for name, count in Counter(counted).most_common(3)))


def _examples(title: str, examples: Sequence[Example]) -> Text:
    """One example a line, as wide as it is: tables would break the words."""
    text = Text(f"{title}\n", style="italic", no_wrap=True, overflow="ignore")
    for one in examples:
        text.append(f"  {one.marked} > {one.found}: ", style="not italic bold")
        text.append(f"{one.excerpt}", style="not italic")
        text.append(f"  ({one.listing} {one.field})\n", style="not italic dim")
    return text
