"""`taggen split`."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from taggen.cli.console import one_line_errors, print_doubts
from taggen.errors import TrainingError

if TYPE_CHECKING:
    from taggen.corpus import Labelled, Report

TRAIN, TEST = "train.jsonl", "test.jsonl"


def split(
    data: Annotated[list[Path], typer.Argument(help="Files of labelled listings: CSV or JSON lines.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for train.jsonl and test.jsonl.")],
    held_out: Annotated[float, typer.Option(min=0.01, max=0.99, help="The share that goes into test.jsonl.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Another one divides otherwise.")] = 0,
) -> None:
    """Divide labelled listings into a part to train on and one to score on, and report on the data.

    Listings of one title stay together. Both files have the marks as offsets (`spans`).
    """
    from taggen import corpus  # noqa: PLC0415

    with one_line_errors():
        labelled, report = corpus.read_any(data)
        for path in (out / TRAIN, out / TEST):
            if path.exists():
                raise TrainingError(f"{path} is there already: choose another --out")
        parts = corpus.split(labelled, held_out, seed)
        out.mkdir(parents=True, exist_ok=True)
        for name, items in zip((TRAIN, TEST), parts, strict=True):
            lines = (json.dumps(corpus.row(item), ensure_ascii=False) + "\n" for item in items)
            (out / name).write_text("".join(lines), encoding="utf-8")
    _print_report(parts, report)
    print_doubts(report)


def _print_report(parts: Sequence[Sequence["Labelled"]], report: "Report") -> None:
    """Listings, marks by tag, and what was in doubt."""
    doubts = Counter(finding.tag for finding in report.findings)
    counts = [Counter(span.tag for item in part for span in item.spans) for part in parts]
    labels = [Counter(name for item in part for name in item.labels) for part in parts]
    table = Table("tag", TRAIN, TEST, "in doubt", title=f"{report.listings} listings")
    table.add_row("listings", *(str(len(part)) for part in parts), "", end_section=True)
    for tag in dict.fromkeys((*report.marks, *doubts)):
        table.add_row(tag, *(str(count[tag]) for count in counts), str(doubts[tag] or ""))
    for name in dict.fromkeys(name for count in labels for name in count):
        table.add_row(f"labels.{name}", *(str(count[name]) for count in labels), "")
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)
