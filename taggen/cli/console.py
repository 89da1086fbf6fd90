"""What the commands say besides their results: errors, doubts, progress. All of it on standard error."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from taggen.errors import CorpusError, InvalidListing, TaggenError, TrainingError

if TYPE_CHECKING:
    from taggen.corpus import Report

errors = Console(stderr=True, highlight=False)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn our exceptions into one line and the exit code: 2 for data and usage, 1 for the rest."""
    try:
        yield
    except (CorpusError, InvalidListing, TrainingError) as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
    except TaggenError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


def print_doubts(report: "Report") -> None:
    """Say on standard error which values of the data were not found in one exact place."""
    if not report.findings:
        return
    for finding in report.findings[:20]:
        errors.print(f"{finding.where}: {finding.tag} {finding.value!r}: {finding.doubt}", soft_wrap=True, markup=False)
    if len(report.findings) > 20:
        errors.print("...")
    counts = ", ".join(f"{count} {doubt}" for doubt, count in report.doubts.items())
    errors.print(
        f"{len(report.findings)} values in {report.listings} listings without one exact place: {counts}. "
        "The first of several places is marked, missing ones are left out.",
        soft_wrap=True,
    )


def progress() -> Progress:
    """A bar with a place for a few words."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[loss]}"), console=errors)
