"""Marks in place: `<brand>Nike</brand> shoes`, in the fields of JSON objects or in tab-separated lines."""

import re
from collections.abc import Container, Mapping
from typing import Any

from taggen.corpus.labelled import Labelled, Span, make_listing, read_labels
from taggen.errors import CorpusError

_MARK = re.compile(r"<(/?)([\w .-]+)>")


def parse(
    row: dict[str, Any],
    where: str,
    tags: Container[str] | None = None,
    labels: Mapping[str, Container[str]] | None = None,
) -> Labelled:
    """A JSON object with marks in title, description and attributes, and perhaps `labels` of the listing as a whole.

    A listing that has labels and not a single mark is one that nobody has marked: partial. `tags` and `labels` ({name:
    values}), if given, are the only ones allowed. Raises CorpusError for others, and for marks that are not
    well-formed.
    """
    spans: list[Span] = []

    def strip(field: str, marked: Any) -> Any:
        if not isinstance(marked, str):
            return marked  # Listing.from_record says what is wrong with it
        text, found = strip_marks(marked, f"{where}: {field}", tags)
        spans.extend(Span(field, start, end, tag) for start, end, tag in found)
        return text

    attributes = row.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise CorpusError(f"{where}: attributes: not a map")
    listing = make_listing(
        row,
        where,
        title=strip("title", row.get("title")),
        description=strip("description", row.get("description")),
        attributes={key: strip(f"attributes.{key}", value) for key, value in attributes.items()},
    )
    its = read_labels(row, where, labels)
    return Labelled(listing, tuple(spans), partial=bool(its) and not spans, labels=its)


def parse_tabbed(line: str, where: str) -> Labelled:
    """A line of JD's form (jd-aig/JAVE): document, sentence, text and marked text between tabs.

    Raises CorpusError when the marked text without its marks is not the text.
    """
    columns = line.rstrip("\r\n").split("\t")
    if len(columns) != 4:
        raise CorpusError(f"{where}: {len(columns)} columns, not document, sentence, text and marked text")
    document, sentence, text, marked = columns
    stripped, found = strip_marks(marked, where)
    if stripped != text:
        raise CorpusError(f"{where}: the marked text differs from the text")
    listing = make_listing({"id": f"{document}/{sentence}", "title": text, "locale": "zh-CN"}, where)
    return Labelled(listing, tuple(Span("title", *span) for span in found))


def strip_marks(marked: str, where: str, tags: Container[str] | None = None) -> tuple[str, list[tuple[int, int, str]]]:
    """Take the marks out; returns the text and (start, end, tag) in it. Raises CorpusError."""
    parts: list[str] = []
    spans: list[tuple[int, int, str]] = []
    at = length = 0
    opened: tuple[str, int] | None = None
    for mark in _MARK.finditer(marked):
        parts.append(marked[at : mark.start()])
        length += len(parts[-1])
        at = mark.end()
        closing, tag = mark[1], mark[2]
        if not closing and opened is None and (tags is None or tag in tags):
            opened = (tag, length)
        elif closing and opened is not None and opened[0] == tag and opened[1] < length:
            spans.append((opened[1], length, tag))
            opened = None
        else:
            raise CorpusError(f"{where}: unexpected {mark[0]}")
    if opened is not None:
        raise CorpusError(f"{where}: <{opened[0]}> is not closed")
    parts.append(marked[at:])
    return "".join(parts), spans
