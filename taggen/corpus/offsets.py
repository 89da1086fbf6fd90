"""Spans by their offsets: {"title": ..., "spans": [{"field": "title", "start": 0, "end": 4, "tag": "brand"}]}."""

from dataclasses import asdict
from itertools import pairwise
from typing import Any

from taggen.corpus.labelled import Labelled, Span, make_listing, read_labels
from taggen.errors import CorpusError


def parse(row: dict[str, Any], where: str) -> Labelled:
    """A JSON object with `spans`, and perhaps `labels` ({name: value or list of values}) of the listing as a whole.

    `input` may stand for `title`, `label` for `tag`; a span's field is the title unless it says otherwise, and its
    `text`, if given, must be what its offsets cut out. `partial` says that other words may carry tags too. Raises
    CorpusError.
    """
    listing = make_listing(row, where, title=row.get("title", row.get("input")))
    labelled = Labelled(listing, (), labels=read_labels(row, where))
    partial = row.get("partial", False)
    if not isinstance(partial, bool):
        raise CorpusError(f"{where}: partial: not a boolean")
    if not isinstance(row["spans"], list):
        raise CorpusError(f"{where}: spans: not a list")
    spans = [_span(labelled, span, f"{where}: span {number}") for number, span in enumerate(row["spans"], 1)]
    for span, after in pairwise(sorted(spans, key=lambda span: (span.tag, span.field, span.start))):
        if (span.tag, span.field) == (after.tag, after.field) and after.start < span.end:
            raise CorpusError(f"{where}: spans of {span.tag} overlap at {after.start} in {span.field}")
    ordered = sorted(spans, key=lambda span: (span.field, span.start))
    return Labelled(listing, tuple(ordered), partial, labelled.labels)


def row(item: Labelled) -> dict[str, Any]:
    """The JSON object that `parse` makes the listing of again."""
    listing = item.listing
    texts = {"description": listing.description, "category": listing.category, "locale": listing.locale}
    return {
        "product_id": listing.product_id,
        "merchant_id": listing.merchant_id,
        "title": listing.title,
        **{name: text for name, text in texts.items() if text is not None},
        **({"attributes": dict(listing.attributes)} if listing.attributes else {}),
        "spans": [
            {**asdict(span), "text": item.text(span.field)[span.start : span.end]}
            for span in sorted(item.spans, key=lambda span: (span.field, span.start))
        ],
        **({"labels": {name: list(values) for name, values in item.labels.items()}} if item.labels else {}),
        **({"partial": True} if item.partial else {}),
    }


def _span(labelled: Labelled, span: Any, where: str) -> Span:
    try:
        field, start, end, tag = (
            span.get("field", "title"),
            span["start"],
            span["end"],
            span.get("tag") or span["label"],
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise CorpusError(f"{where}: {error!r}") from None
    if not isinstance(tag, str) or type(start) is not int or type(end) is not int:
        raise CorpusError(f"{where}: start and end must be integers, the tag a string")
    if field not in ("title", "description", *(f"attributes.{key}" for key in labelled.listing.attributes)):
        raise CorpusError(f"{where}: no field {field!r}")
    text = labelled.text(field)
    if not 0 <= start < end <= len(text):
        raise CorpusError(f"{where}: {start} to {end} is not within the {len(text)} characters of {field}")
    if "text" in span and span["text"] != text[start:end]:
        raise CorpusError(f"{where}: the text from {start} to {end} is {text[start:end]!r}, not {span['text']!r}")
    return Span(field, start, end, tag)
