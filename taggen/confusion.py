"""What goes wrong: the tags with the most mistakes, what they are taken for, and examples."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from taggen.corpus import Labelled, Span
from taggen.evaluate import found, overlap
from taggen.tag import Tagging

NOTHING = "nothing"
BOUNDS = "other bounds"

_CONTEXT = 24  # characters on either side of an excerpt
_EXAMPLES = 3  # of one tag, in each direction


@dataclass(frozen=True, slots=True)
class Example:
    """A mention in its context, `...[words]...`; what was marked and found there, as tag names or as above."""

    listing: str  # merchant and product
    field: str
    excerpt: str
    marked: str
    found: str


@dataclass
class Confusion:
    """The mistakes of one tag.

    `taken_for` counts what was wrongly found where the tag is marked and was missed, `taken_from` what is marked where
    the tag was found and is not: another tag, other bounds of the same, or nothing.
    """

    tag: str
    missed: int = 0
    false: int = 0
    taken_for: dict[str, int] = field(default_factory=dict)  # not a Counter: asdict() would count its items
    taken_from: dict[str, int] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)


def worst(labelled: Sequence[Labelled], taggings: Sequence[Tagging], tags: int = 10) -> list[Confusion]:
    """The tags with the most mistakes (missed and false mentions together), the worst first."""
    confusions: dict[str, Confusion] = {}
    shown: Counter[tuple[str, bool]] = Counter()
    for item, tagging in zip(labelled, taggings, strict=True):
        marked, mentions = set(item.spans), found(item, tagging)
        for missed, wrong, others in ((True, marked - mentions, mentions - marked), (False, mentions - marked, marked)):
            seen: set[str] = set()  # one example a listing, tag and direction
            for mention in _in_order(wrong):
                confusion = confusions.setdefault(mention.tag, Confusion(mention.tag))
                other = instead(mention, others)
                if missed:
                    confusion.missed += 1
                    confusion.taken_for[other] = confusion.taken_for.get(other, 0) + 1
                else:
                    confusion.false += 1
                    confusion.taken_from[other] = confusion.taken_from.get(other, 0) + 1
                if mention.tag not in seen and shown[mention.tag, missed] < _EXAMPLES:
                    seen.add(mention.tag)
                    shown[mention.tag, missed] += 1
                    names = (mention.tag, other) if missed else (other, mention.tag)
                    confusion.examples.append(example(item, mention, *names))
    ordered = sorted(confusions.values(), key=lambda one: (-(one.missed + one.false), one.tag))
    return ordered[:tags]


def example(item: Labelled, mention: Span, marked: str, found_: str) -> Example:
    """A mention in its context."""
    listing = f"{item.listing.merchant_id}/{item.listing.product_id}"
    return Example(
        listing, mention.field, excerpt(item.text(mention.field), mention.start, mention.end), marked, found_
    )


def excerpt(text: str, start: int, end: int) -> str:
    """The words at start to end in brackets, with a little of what stands around them, on one line."""
    before, after = text[max(0, start - _CONTEXT) : start], text[end : end + _CONTEXT]
    dots = ("…" if start > _CONTEXT else "", "…" if end + _CONTEXT < len(text) else "")
    return " ".join(f"{dots[0]}{before}[{text[start:end]}]{after}{dots[1]}".split())


def instead(mention: Span, others: Iterable[Span]) -> str:
    """What stands among others in place of a mention: another tag, other bounds, or nothing."""
    overlapping = [other for other in others if overlap(mention, other)]
    if not overlapping:
        return NOTHING
    if any(other.tag == mention.tag for other in overlapping):
        return BOUNDS
    return max(_in_order(overlapping), key=lambda other: overlap(mention, other)).tag


def _in_order(mentions: Iterable[Span]) -> list[Span]:
    return sorted(mentions, key=lambda mention: (mention.field, mention.start, mention.end, mention.tag))
