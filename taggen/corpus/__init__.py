"""Labelled listings: the ones written for this project, and readers for the forms that labelled data comes in.

README.md beside this file is the annotation guide.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from taggen.errors import CorpusError, InvalidListing
from taggen.listing import Listing
from taggen.tag import Kind

# The tag set of the default adapter, in the order that tags come out.
TAGS: Mapping[str, Kind] = {
    "brand": "attribute",
    "model_name": "attribute",
    "product_type": "attribute",
    "color": "attribute",
    "material": "attribute",
    "size": "attribute",
    "quantity": "attribute",
    "audience": "attribute",
    "function": "function",
    "occasion": "occasion",
    "style": "attribute",
    "pattern": "attribute",
    "season": "attribute",
    "flavor": "attribute",
}

# Attributes of OA-Mine (Zhang et al. 2022, Apache-2.0) that mean one of these tags wherever they stand.
OA_MINE = {
    "Brand": "brand",
    "Model name": "model_name",
    "Shoe type": "product_type",
    "Color": "color",
    "Material": "material",
    "Size": "size",
    "Volume": "size",
    "Pack size": "quantity",
    "Gender": "audience",
    "Age range": "audience",
    "Flavor": "flavor",
    "Scent": "flavor",
    "Sport": "occasion",
    "Waterproof": "function",
}

_MARK = re.compile(r"<(/?)([\w .-]+)>")


@dataclass(frozen=True, slots=True)
class Span:
    """`field[start:end]` carries `tag`; code points, `end` exclusive, fields named as in Evidence."""

    field: str
    start: int
    end: int
    tag: str


@dataclass(frozen=True, slots=True)
class Labelled:
    """A listing and the spans that somebody marked in it.

    `partial` says that other words may carry tags too: what is not marked is neither taught nor scored.
    """

    listing: Listing
    spans: tuple[Span, ...]
    partial: bool = False

    def text(self, field: str) -> str:
        """The original text of a field named as in Evidence."""
        if field.startswith("attributes."):
            return self.listing.attributes[field.removeprefix("attributes.")]
        return getattr(self.listing, field) or ""


def train_files() -> list[Path]:
    """The training files that ship with the package."""
    with resources.as_file(resources.files(__name__)) as folder:
        return sorted(folder.glob("train-*.jsonl"))


def held_out() -> list[Labelled]:
    """The listings that are never trained on: they score the default adapter and make the demo."""
    with resources.as_file(resources.files(__name__) / "held-out.jsonl") as path:
        return read(path)


def digest(files: list[Path]) -> str:
    """SHA-256 (hex) over the files' bytes."""
    together = hashlib.sha256()
    for path in files:
        together.update(path.read_bytes())
    return together.hexdigest()


def read(path: Path) -> list[Labelled]:
    """Read a file of labelled listings with marks in place (`<brand>Nike</brand>`).

    Raises CorpusError naming file and line, also for a mark that is none of TAGS.
    """
    return [_parse(row, where) for where, row in _rows(path)]


def read_target_scores(path: Path, tag_of: Mapping[str, str]) -> list[Labelled]:
    """Read titles with `target_scores` (the form of OA-Mine and AE-110k): {attribute: {value: 1}}.

    `tag_of` maps attribute names to tags; the listings are partial, since other attributes are not marked. A value is
    marked where its words stand first in the title and are not part of a longer word. Raises CorpusError.
    """
    labelled = []
    for number, (where, row) in enumerate(_rows(path)):
        try:
            title, scores = str(row["input"]), row["target_scores"]
            values = [(str(value), tag_of[name]) for name in scores if name in tag_of for value in scores[name]]
        except (KeyError, TypeError) as error:
            raise CorpusError(f"{where}: {error!r}") from None
        spans: list[Span] = []
        for value, tag in sorted(values, key=lambda item: -len(item[0])):  # a longer value may hold a shorter one
            for match in re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", title):
                if not any(match.start() < span.end and span.start < match.end() for span in spans):
                    spans.append(Span("title", *match.span(), tag))
                    break
        listing = Listing(path.parent.name, str(number), 1, title, category=row.get("category"))
        labelled.append(Labelled(listing, tuple(sorted(spans, key=lambda span: span.start)), partial=True))
    return labelled


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # splitlines() would cut at U+2028 inside of strings
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: {error}") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise CorpusError(f"{where}: {error}") from None
            if not isinstance(row, dict):
                raise CorpusError(f"{where}: not an object")
            yield where, row


def _parse(row: dict[str, Any], where: str) -> Labelled:
    spans: list[Span] = []

    def strip(field: str, marked: Any) -> Any:
        if not isinstance(marked, str):
            return marked  # Listing.from_record says what is wrong with it
        text, found = _strip_marks(marked, f"{where}: {field}")
        spans.extend(Span(field, start, end, tag) for start, end, tag in found)
        return text

    attributes = row.get("attributes") or {}
    if not isinstance(attributes, dict):
        raise CorpusError(f"{where}: attributes: not a map")
    record = {
        **row,
        "product_id": row.get("id"),
        "listing_version": 1,
        "event_time": 0,
        "title": strip("title", row.get("title")),
        "description": strip("description", row.get("description")),
        "attributes": {key: strip(f"attributes.{key}", value) for key, value in attributes.items()},
    }
    try:
        listing = Listing.from_record(record)
    except InvalidListing as error:
        raise CorpusError(f"{where}: {error}") from None
    return Labelled(listing, tuple(spans))


def _strip_marks(marked: str, where: str) -> tuple[str, list[tuple[int, int, str]]]:
    """Take the marks out; returns the text and (start, end, tag) in it."""
    parts: list[str] = []
    spans: list[tuple[int, int, str]] = []
    at = length = 0
    opened: tuple[str, int] | None = None
    for mark in _MARK.finditer(marked):
        parts.append(marked[at : mark.start()])
        length += len(parts[-1])
        at = mark.end()
        closing, tag = mark[1], mark[2]
        if not closing and opened is None and tag in TAGS:
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
