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

from taggen import calibration, confusion, evaluate, picture
from taggen.calibration import Bin, Point
from taggen.compare import Comparison, Difference
from taggen.confusion import Confusion, Example
from taggen.corpus import Labelled
from taggen.evaluate import MICRO, Score
from taggen.tag import Model, Tagging
from taggen.tagger import Tagger


@dataclass(frozen=True)
class Scorecard:
    """Scores by tag and over all (`micro`), confidences, mistakes, and the comparison with another adapter if there was
    one. `seconds` is the time of tagging, reading and loading apart."""

    model: Model
    listings: int
    seconds: float
    exact: dict[str, Score]
    partial: dict[str, Score]
    languages: dict[str, Score]
    reliable: list[Bin]
    curve: list[Point]
    worst: list[Confusion]
    unknown: tuple[str, ...]  # tags of the data that the adapter does not have: their marks count as missed
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
            "languages": {name: _figures(one) for name, one in self.languages.items()},
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
                "gained": [asdict(one) for one in self.comparison.gained],
                "lost": [asdict(one) for one in self.comparison.lost],
            }
        return content

    def print(self, console: Console) -> None:
        """Print the tables."""
        for part in (_tags(self), _reliability(self.reliable), *_worst(self.worst), *self._compared()):
            console.print(part, soft_wrap=isinstance(part, Text), highlight=False)
            console.print()
        rate = self.listings / self.seconds if self.seconds else 0.0
        console.print(f"{self.listings} listings in {self.seconds:.1f} s ({rate:.1f} a second)", highlight=False)
        if self.unknown:
            names = escape(", ".join(self.unknown))
            console.print(f"Tags of the data that the adapter does not have, counted as missed: {names}")

    def draw(self, path: Path) -> None:
        """Write the picture."""
        picture.draw(path, self.title, self.exact, self.partial, self.curve, self.reliable)

    def _compared(self) -> list[RenderableType]:
        if self.other is None or self.comparison is None:
            return []
        table = Table(
            "tag", title=f"against {self.other.adapter} {self.other.version}: F1 in points", title_justify="left"
        )
        for column in ("difference", "95 % from", "to"):
            table.add_column(column, justify="right")
        for name, one in sorted(
            self.comparison.differences.items(), key=lambda item: (item[0] != MICRO, item[1].delta)
        ):
            style = "red" if one.high < 0 else "green" if one.low > 0 else ""
            table.add_row(
                escape(name), *(f"{100 * value:+.1f}" for value in (one.delta, one.low, one.high)), style=style
            )
        only = (
            ("found by this one only: what is marked > what the other one finds", self.comparison.gained),
            ("found by the other one only: what is marked > what this one finds", self.comparison.lost),
        )
        return [table, *(_examples(title, examples) for title, examples in only if examples)]


def run(
    tagger: Tagger, labelled: Sequence[Labelled], progress: Callable[[int], None] = lambda listings: None
) -> tuple[Scorecard, list[Tagging]]:
    """Tag labelled listings and score the outcome; the taggings come along for a comparison."""
    started = time.monotonic()
    outputs = evaluate.read_all(tagger, labelled, progress=progress)
    seconds = time.monotonic() - started
    taggings = [output.tagging for output in outputs]
    judged = calibration.outcomes(labelled, outputs)
    exact = evaluate.score(labelled, taggings)
    card = Scorecard(
        tagger.model,
        len(labelled),
        seconds,
        exact,
        evaluate.score(labelled, taggings, partial=True),
        {language: by_tag[MICRO] for language, by_tag in evaluate.by_language(labelled, taggings).items()},
        calibration.reliability(judged),
        calibration.precision_recall(judged, exact[MICRO].marked),
        confusion.worst(labelled, taggings),
        tuple(sorted({span.tag for item in labelled for span in item.spans} - {tag.name for tag in tagger.card.tags})),
    )
    return card, taggings


def _figures(score: Score) -> dict[str, float | int]:
    return {**score.rounded(), "found": score.found, "right": score.right}


def _points(difference: Difference) -> dict[str, float]:
    return {name: round(100 * value, 2) for name, value in asdict(difference).items()}


def _tags(card: Scorecard) -> Table:
    table = Table("#", "tag", title=escape(card.title), title_justify="left")
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
    for language, one in card.languages.items():
        if language != "all" and len(card.languages) > 2:
            figures_ = (f"{100 * figure:.1f}" for figure in (one.precision, one.recall, one.f1))
            table.add_row(
                "", f"all in {escape(language) or 'no locale'}", str(one.marked), str(one.found), *figures_, ""
            )
    return table


def _reliability(reliable: Sequence[Bin]) -> Table:
    error = 100 * calibration.calibration_error(reliable)
    table = Table("confidence", title=f"reliability: expected calibration error {error:.1f} %", title_justify="left")
    for column in ("mentions", "mean", "right"):
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
