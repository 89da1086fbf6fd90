"""Spans to tags: thresholds, clean values, duplicates merged, a stable order."""

from collections.abc import Iterable, Sequence

from taggen.adapter import TagType
from taggen.head import Span
from taggen.tag import Evidence, Tag
from taggen.windows import Prepared

RULES = 2  # goes into the tagger's fingerprint: grows with every change of what this module decides

_EDGES = " \t,.;:!?、,。;:!?·…|/\\-–—_~*\"'“”‘’()[]{}()【】《》「」<>+&#®™©"

_INCHES = "\"'”’"  # and feet: directly behind a digit they are part of the value (27"), as is a plus (S10+, 6+)


def tags(prepared: Prepared, spans: Iterable[Span], tag_set: Sequence[TagType]) -> tuple[Tag, ...]:
    """The tags of one listing.

    Spans below their tag's threshold go; mentions of one value are merged, with all their evidence, the best one's
    confidence and wording. Order: as the tag set has them, then by first evidence.
    """
    merged: dict[tuple[int, str], Tag] = {}
    for span in spans:
        tag_type = tag_set[span.tag - 1]
        if span.confidence < tag_type.threshold:
            continue
        located = locate(prepared, span)
        if located is None:
            continue
        value, evidence = located
        normalized = normalize(value)
        earlier = merged.get((span.tag, normalized))
        better = earlier is None or span.confidence > earlier.confidence
        merged[span.tag, normalized] = Tag(
            name=tag_type.name,
            value=value if better or earlier is None else earlier.value,
            normalized=normalized,
            confidence=span.confidence if better or earlier is None else earlier.confidence,
            kind=tag_type.kind,
            evidence=tuple(dict.fromkeys((*earlier.evidence, evidence))) if earlier else (evidence,),
        )
    # Spans come in the stream's order and dictionaries keep it, so a sort by tag alone leaves values by first evidence.
    return tuple(tag for _, tag in sorted(merged.items(), key=lambda item: item[0][0]))


def normalize(value: str) -> str:
    """The form to filter and count by. Clean text has been through NFKC already."""
    return " ".join(value.casefold().split())


def locate(prepared: Prepared, span: Span) -> tuple[str, Evidence] | None:
    """The span's words without punctuation at their edges, and their place in the original field."""
    field = prepared.fields[prepared.sources[span.first]]
    start, end = prepared.starts[span.first], prepared.ends[span.last - 1]
    words = field.clean.text[start:end]
    inner = words.rstrip(_EDGES)
    if not inner:
        return None
    behind = words[len(inner) : len(inner) + 1]
    if behind and ((behind in _INCHES and inner[-1].isdigit()) or behind == "+"):
        inner += behind
    start += len(words) - len(words.lstrip(_EDGES))
    end -= len(words) - len(inner)
    value, raw_start, raw_end = field.clean.locate(start, end)
    return value, Evidence(field.name, raw_start, raw_end)
