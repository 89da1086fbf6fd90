"""Tags: what comes out for a listing, each with the words that carry it."""

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["attribute", "function", "occasion"]

TAG_NAME = re.compile(r"\w[\w .()/&'+%-]{0,63}")  # such as AE-110k's "Back / Side Material"


def is_label_value(value: object) -> bool:
    """Whether this can be the value of a listing-level label: 1 to 64 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= 64 and value.isprintable()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a listing says so: `field` is title, description or attributes.KEY; offsets are code points into the
    original field, `end` exclusive."""

    field: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tag:
    """One tag of a listing. `value` is the listing's wording cleaned of mark-up, `normalized` the form to filter by,
    `confidence` in 0 to 1. A listing-level label is its own value in both, and has no evidence. Held by a test to
    schemas/product-tags.avsc."""

    name: str
    value: str
    normalized: str
    confidence: float
    kind: Kind
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Tagging:
    """The tags of one listing, in a stable order, and flags such as `text_truncated`."""

    tags: tuple[Tag, ...]
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """What served a tagging. `fingerprint` is a SHA-256 (hex) of all that decides the tags; equal bits hold within one
    `numerics_class`. Held by a test to schemas/product-tags.avsc."""

    base: str
    generation: int
    quantization: str
    compute_dtype: str
    adapter: str
    version: str
    revision: int
    fingerprint: str
    numerics_class: str
