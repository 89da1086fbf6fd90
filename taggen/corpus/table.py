"""Tables: a CSV file with a header row, a listing a row, the values of a tag in a column of its name.

Columns named `title`, `description`, `product_id`, `merchant_id`, `category`, `locale` and `attributes.KEY` are the
listing, `labels.NAME` its listing-level labels; each other column is a tag. A cell may hold several values, `|` between
them. Values are looked for in the listing's text as those of `target_scores` are.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taggen.corpus import values
from taggen.corpus.labelled import Labelled, Report, make_listing, read_labels
from taggen.errors import CorpusError

SUFFIX = ".csv"
BETWEEN_VALUES = "|"

_LISTING = {"product_id", "id", "merchant_id", "title", "description", "category", "locale"}
_UNUSED = {"listing_version", "event_id", "event_time", "image_urls", "deleted"}  # fields of events that teach nothing
_ATTRIBUTE, _LABEL = "attributes.", "labels."

_Cells = dict[str, str]


def parse(path: Path, report: Report) -> Iterator[tuple[str, Labelled]]:
    """The rows as (file:line, listing); what is in doubt goes into the report. Raises CorpusError naming file and line:
    the one that the row begins on."""
    rows = _rows(path)
    where, names = next(rows, (f"{path}:1", []))
    header = [_column(name, where, number) for number, name in enumerate(names, 1)]
    if "title" not in header:
        raise CorpusError(f"{where}: no column is named title")
    if doubles := {name for name in header if header.count(name) > 1}:
        raise CorpusError(f"{where}: two columns are named {min(doubles)}")
    for here, cells in rows:
        if len(cells) != len(header):
            raise CorpusError(f"{here}: {len(cells)} cells under a header of {len(header)}")
        filled = {name: cell for name, cell in zip(header, cells, strict=True) if cell.strip()}
        if filled:
            yield here, _labelled(filled, header, here, report)


def _labelled(cells: _Cells, header: Sequence[str], where: str, report: Report) -> Labelled:
    attributes = {name.removeprefix(_ATTRIBUTE): cell for name, cell in cells.items() if name.startswith(_ATTRIBUTE)}
    listing = make_listing(
        {name: cell for name, cell in cells.items() if name in _LISTING}, where, attributes=attributes
    )
    texts = {"title": listing.title, "description": listing.description or ""}
    texts |= {_ATTRIBUTE + key: text for key, text in listing.attributes.items()}
    tags = [name for name in header if _is_tag(name)]
    wanted = [(value, name) for name in tags for value in _split(cells.get(name, ""))]
    labels = {name.removeprefix(_LABEL): _split(cell) for name, cell in cells.items() if name.startswith(_LABEL)}
    spans = values.locate(wanted, texts, where, report)
    row: dict[str, Any] = {"labels": labels}
    return Labelled(listing, spans, partial=not tags, labels=read_labels(row, where))


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """All rows, each with the line that it begins on: cells in quotes may go over several."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise CorpusError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise CorpusError(f"{path}:{number}: not UTF-8: {error.reason}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield f"{path}:{line}", row
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"{path}:{line}: {error}") from None


def _column(name: str, where: str, number: int) -> str:
    """A column's name; those of the listing may be written in any case."""
    stripped = name.strip()
    if not stripped:
        raise CorpusError(f"{where}: column {number} has no name")
    return stripped.casefold() if stripped.casefold() in _LISTING | _UNUSED else stripped


def _is_tag(name: str) -> bool:
    return name not in _LISTING | _UNUSED and not name.startswith((_ATTRIBUTE, _LABEL))


def _split(cell: str) -> list[str]:
    """The values of a cell, each once."""
    return list(dict.fromkeys(value for part in cell.split(BETWEEN_VALUES) if (value := part.strip())))
