"""A labelled listing, and the report on how well its file could be read."""

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from taggen.errors import CorpusError, InvalidListing
from taggen.listing import Listing
from taggen.tag import TAG_NAME, Tagging, is_label_value


@dataclass(frozen=True, slots=True)
class Span:
    """`field[start:end]` carries `tag`; code points, `end` exclusive, fields named as in Evidence."""

    field: str
    start: int
    end: int
    tag: str


Label = tuple[str, str]  # name and value of a listing-level label


@dataclass(frozen=True, slots=True)
class Labelled:
    """A listing, the spans that somebody marked in it, and labels of the listing as a whole ({name: values}): no values
    where it is known to have none, no such name where nothing is known.

    `partial` says that other words may carry tags too: what is not marked is neither taught nor scored.
    """

    listing: Listing
    spans: tuple[Span, ...]
    partial: bool = False
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def text(self, field: str) -> str:
        """The original text of a field named as in Evidence."""
        if field.startswith("attributes."):
            return self.listing.attributes[field.removeprefix("attributes.")]
        return getattr(self.listing, field) or ""


Doubt = Literal["several places", "other case", "inside a longer word", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A value without a place of its own: marked where `doubt` says that it is found after all, first place first, and
    left out when it is missing. `where` is file:line, `wording` what is marked."""

    where: str
    doubt: Doubt
    tag: str
    value: str
    wording: str


@dataclass
class Report:
    """What was read: listings, marks by tag, and by tag and wording, values that the data say a listing lacks, and what
    was in doubt."""

    listings: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    wordings: Counter[tuple[str, str]] = field(default_factory=Counter)
    absent: int = 0
    findings: list[Finding] = field(default_factory=list)

    def count(self, item: Labelled) -> None:
        """Take a listing in."""
        self.listings += 1
        self.marks.update(span.tag for span in item.spans)
        self.wordings.update((span.tag, item.text(span.field)[span.start : span.end]) for span in item.spans)

    @property
    def doubts(self) -> dict[str, int]:
        """Findings by doubt, the most frequent first."""
        return dict(Counter(finding.doubt for finding in self.findings).most_common())


def make_listing(row: Mapping[str, Any], where: str, **fields: Any) -> Listing:
    """A listing out of a row; the line's number and "-" stand for ids that are not given. Raises CorpusError."""
    record = {
        "merchant_id": "-",
        **row,
        "product_id": row.get("id", row.get("product_id", where.rpartition(":")[2])),
        "listing_version": 1,
        "event_time": 0,
        **fields,
    }
    try:
        return Listing.from_record(record)
    except InvalidListing as error:
        raise CorpusError(f"{where}: {error}") from None


def read_labels(
    row: Mapping[str, Any], where: str, allowed: Mapping[str, Container[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """A row's `labels`: {name: value or list of values}, an empty list where a listing is known to have none.

    `allowed`, if given, are the only names and values there may be. Raises CorpusError.
    """
    labels = row.get("labels", {})
    if not isinstance(labels, dict):
        raise CorpusError(f"{where}: labels: not a map")
    found = {}
    for name, given in labels.items():
        values = [given] if isinstance(given, str) else given
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise CorpusError(f"{where}: labels.{name}: neither a string nor a list of strings")
        if not TAG_NAME.fullmatch(name):
            raise CorpusError(f"{where}: label name {name!r}")
        if allowed is not None and name not in allowed:
            raise CorpusError(f"{where}: labels.{name}: none of {', '.join(allowed)}")
        for value in values:
            if not is_label_value(value):
                raise CorpusError(f"{where}: labels.{name}: {value!r} is no value of 1 to 64 printable characters")
            if allowed is not None and value not in allowed[name]:
                raise CorpusError(f"{where}: labels.{name}: unexpected {value!r}")
        found[name] = tuple(values)
    return found


def as_said(listing: Listing, tagging: Tagging, labels: Iterable[Label]) -> Labelled:
    """A listing labelled as a tagger says, to teach another one by; `labels` are those that the tagger knows.

    Distillation (Hinton et al. 2015) with hard labels, so that the two may cut words differently.
    """
    spans = [Span(place.field, place.start, place.end, tag.name) for tag in tagging.tags for place in tag.evidence]
    said = {(tag.name, tag.normalized) for tag in tagging.tags}
    found: dict[str, tuple[str, ...]] = {}
    for name, value in labels:
        found[name] = found.get(name, ()) + ((value,) if (name, value) in said else ())
    return Labelled(listing, tuple(spans), labels=found)
