"""Values without places: {"input": title, "target_scores": {attribute: {value: 1}}}, the form of OA-Mine and AE-110k.

A value is looked for in the title: first as whole words, then in other case, then where a longer word begins with it
(`Letter` in `Letters`). Longer values choose first, and none takes a place within another. Of several places the first
is marked. Whatever is not one exact place is reported.
"""

import re
from collections.abc import Iterator
from typing import Any

from taggen.corpus.labelled import Doubt, Finding, Labelled, Report, Span, make_listing
from taggen.errors import CorpusError

NOT_THERE = "n/a"  # the data's word for an attribute that the listing is known to lack

# Words of Chinese and Japanese are not set apart: only other letters and digits make a word longer.
_LETTER = r"[^\W\u3040-\u30ff\u3400-\u9fff]"
_SHORTEST_BEGINNING = 3  # characters: shorter ones begin too many words


def parse(row: dict[str, Any], where: str, report: Report) -> Labelled:
    """A JSON object with `target_scores`; what is in doubt goes into the report. Raises CorpusError."""
    listing = make_listing(row, where, title=row.get("input", row.get("title")))
    scores = row["target_scores"]
    if not isinstance(scores, dict) or not all(isinstance(values, dict | list) for values in scores.values()):
        raise CorpusError(f"{where}: target_scores: not a map of attributes to values")
    values = [(str(value).strip(), name) for name, values in scores.items() for value in values]
    report.absent += sum(value == NOT_THERE for value, _ in values)
    spans: list[Span] = []
    for value, tag in sorted(values, key=lambda item: -len(item[0])):
        if value in ("", NOT_THERE):
            continue
        doubt, places = _locate(value, listing.title, spans)
        if doubt is not None:
            report.findings.append(Finding(where, doubt, tag, value))
        if places:
            spans.append(Span("title", *places[0], tag))
    return Labelled(listing, tuple(sorted(spans, key=lambda span: span.start)))


def _locate(value: str, title: str, taken: list[Span]) -> tuple[Doubt | None, list[tuple[int, int]]]:
    """The free places of a value, and what is doubtful about them."""
    for doubt, pattern in _patterns(value):
        places = [
            match.span()
            for match in pattern.finditer(title)
            if not any(match.start() < span.end and span.start < match.end() for span in taken)
        ]
        if places:
            return ("several places" if doubt is None and len(places) > 1 else doubt), places
    return "missing", []


def _patterns(value: str) -> Iterator[tuple[Doubt | None, re.Pattern[str]]]:
    begin = end = ""
    if re.match(_LETTER, value):
        begin = rf"(?<!{_LETTER})" + (r"(?<!\d[.,])" if value[0].isdigit() else "")
    if re.match(_LETTER, value[-1]):
        end = rf"(?!{_LETTER})" + (r"(?![.,]\d)" if value[-1].isdigit() else "")
    words = begin + re.escape(value)
    yield None, re.compile(words + end)
    yield "other case", re.compile(words + end, re.IGNORECASE)
    if len(value) >= _SHORTEST_BEGINNING:
        yield "inside a longer word", re.compile(words)
