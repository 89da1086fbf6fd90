"""Reading labelled data in whatever form it comes."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from taggen.corpus import marks, offsets, table, values
from taggen.corpus.labelled import Labelled, Report
from taggen.corpus.tag_set import LABELS, TAGS
from taggen.errors import CorpusError
from taggen.tag import TAG_NAME


def read(path: Path) -> list[Labelled]:
    """Read a file of JSON objects with marks in place, as the package's own are.

    Raises CorpusError naming file and line, also for a mark that is none of TAGS or a label that is none of LABELS.
    """
    return [marks.parse(_object(line, where), where, TAGS, LABELS) for where, line in _lines(path)]


def read_any(paths: Path | Sequence[Path], tag_of: Mapping[str, str] | None = None) -> tuple[list[Labelled], Report]:
    """Read files of labelled listings, and report on what was in doubt.

    A file named *.csv is a table (corpus/table.py). Of others each line is told by its looks: a JSON object with
    `target_scores` (values to be located in the title), with `spans` (offsets), or else with marks in its fields; or
    JD's four columns between tabs. Tags are named as in the data unless `tag_of` maps the data's names to tags: then
    other names are left out, and the listings are partial. Raises CorpusError naming file and line.
    """
    labelled: list[Labelled] = []
    report = Report()
    for path in [paths] if isinstance(paths, Path) else paths:
        for where, read_item in _items(path, report):
            item = read_item if tag_of is None else _renamed(read_item, tag_of)
            for span in item.spans:
                if not TAG_NAME.fullmatch(span.tag):
                    raise CorpusError(f"{where}: tag name {span.tag!r}")
            report.count(item)
            labelled.append(item)
    if not labelled:
        raise CorpusError(f"{paths}: no listings")
    if tag_of is not None:
        report.findings = [replace(one, tag=tag_of[one.tag]) for one in report.findings if one.tag in tag_of]
    return labelled, report


def read_mapping(path: Path) -> dict[str, str]:
    """Read a JSON object of {name in the data: tag}; raises CorpusError."""
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: {error}") from None
    if not isinstance(mapping, dict) or not all(isinstance(tag, str) for tag in mapping.values()):
        raise CorpusError(f"{path}: not a JSON object of names and tags")
    return mapping


def _items(path: Path, report: Report) -> Iterator[tuple[str, Labelled]]:
    if path.suffix.lower() == table.SUFFIX:
        yield from table.parse(path, report)
    else:
        for where, line in _lines(path):
            yield where, _parse(line, where, report)


def _renamed(item: Labelled, tag_of: Mapping[str, str]) -> Labelled:
    spans = tuple(replace(span, tag=tag_of[span.tag]) for span in item.spans if span.tag in tag_of)
    return replace(item, spans=spans, partial=True)


def _parse(line: str, where: str, report: Report) -> Labelled:
    if "\t" in line and not line.lstrip().startswith("{"):
        return marks.parse_tabbed(line, where)
    row = _object(line, where)
    if "target_scores" in row:
        return values.parse(row, where, report)
    return offsets.parse(row, where) if "spans" in row else marks.parse(row, where)


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would cut at U+2028 inside of strings
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{path}:{number}", line


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: {error}") from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where}: not an object")
    return row
