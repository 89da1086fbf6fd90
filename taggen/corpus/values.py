"""Values without places: {"input": title, "target_scores": {attribute: {value: 1}}}, the form of OA-Mine and AE-110k.

A value is looked for in each field: first as whole words, then in other case, then where a longer word begins with it
(`Letter` in `Letters`): then the whole word is marked, as tags are served. Longer values choose first, and none takes a
place within another unless it has no other and that is of another attribute. Of several places in a field the first is
marked. Whatever is not one exact place is reported.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from taggen.corpus.labelled import Doubt, Finding, Labelled, Report, Span, make_listing
from taggen.errors import CorpusError

NOT_THERE = "n/a"  # the data's word for an attribute that the listing is known to lack

# Words of Chinese and Japanese are not set apart: only other letters and digits make a word longer.
_LETTER = r"[^\W\u3040-\u30ff\u3400-\u9fff]"
_INSIDE: Doubt = "inside a longer word"
# Of several fields the first of these counts: what is said of a place twice is a question, what is said once is none.
_DOUBTS: tuple[Doubt | None, ...] = ("several places", None, "other case", _INSIDE, "missing")
_SHORTEST_BEGINNING = 3  # characters: shorter ones begin too many words


def parse(row: dict[str, Any], where: str, report: Report) -> Labelled:
    """A JSON object with `target_scores`; what is in doubt goes into the report. Raises CorpusError."""
    listing = make_listing(row, where, title=row.get("input", row.get("title")))
    scores = row["target_scores"]
    if not isinstance(scores, dict) or not all(isinstance(values, dict | list) for values in scores.values()):
        raise CorpusError(f"{where}: target_scores: not a map of attributes to values")
    values = [(str(value).strip(), name) for name, values in scores.items() for value in values]
    report.absent += sum(value == NOT_THERE for value, _ in values)
    return Labelled(listing, locate(values, {"title": listing.title}, where, report))


def locate(values: Iterable[tuple[str, str]], texts: Mapping[str, str], where: str, report: Report) -> tuple[Span, ...]:
    """The spans of (value, tag) in texts by field, in their order; what is in doubt goes into the report.

    A value is marked in each field that has it; in longer words only where it is nowhere else.
    """
    spans: dict[str, list[Span]] = {field: [] for field in texts}
    for value, tag in sorted(values, key=lambda item: -len(item[0])):
        if value in ("", NOT_THERE):
            continue
        found = {field: _locate(value, text, spans[field]) for field, text in texts.items()}
        if all(its == "missing" for its, _ in found.values()):
            own = {field: [span for span in spans[field] if span.tag == tag] for field in texts}
            found = {field: _locate(value, text, own[field]) for field, text in texts.items()}
        doubt = min((its for its, _ in found.values()), key=_DOUBTS.index)
        wording = value
        for field, (its, places) in found.items():
            if places and (its != _INSIDE or doubt == _INSIDE):
                spans[field].append(Span(field, *places[0], tag))
                wording = texts[field][slice(*places[0])]
        if doubt is not None:
            report.findings.append(Finding(where, doubt, tag, value, wording))
    return tuple(span for its in spans.values() for span in sorted(its, key=lambda span: span.start))


def _locate(value: str, text: str, taken: Sequence[Span]) -> tuple[Doubt | None, list[tuple[int, int]]]:
    """The free places of a value, and what is doubtful about them."""
    for doubt, pattern in _patterns(value):
        places = [
            match.span()
            for match in pattern.finditer(text)
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
        rest = "[A-Za-z]*" if re.match("[A-Za-z]", value[-1]) else ""  # Latin words are served whole (postprocess.py)
        yield _INSIDE, re.compile(words + rest)
