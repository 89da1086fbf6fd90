"""Spans and labels to tags: thresholds, clean values, nothing that must not be published, duplicates merged, in a
stable order."""

import re
from dataclasses import replace

from taggen import compliance
from taggen.adapter import Card
from taggen.head import Answer, Span
from taggen.normalize import Rules
from taggen.tag import Evidence, Tag, Tagging
from taggen.text import Field
from taggen.windows import Prepared

RULES = 7  # goes into the tagger's fingerprint: grows with every change of what this module decides

_EDGES = " \t,.;:!?、,。;:!?·…|/\\-–—_~*\"'“”‘’()[]{}()【】《》「」<>+&#®™©"

_BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"), ("【", "】"), ("《", "》"), ("「", "」"))
_SIGNED = re.compile(r"""\d["'”’]$|\b(?:[A-Za-z]\.){2,}$""")  # 27", 6', U.S.A.

_WORD = re.compile(r"[\w@.+-]+", re.ASCII)
_WORD_CHARS = 64  # of a word that are looked at on either side


def tagging(prepared: Prepared, answer: Answer, card: Card, rules: Rules) -> Tagging:
    """The tags and flags of one listing.

    Spans below their tag's threshold go. What compliance withholds is flagged instead. Mentions of one value are
    merged, with all their evidence, the best one's confidence and wording. A listing-level label that reaches its
    threshold is a tag without evidence, or makes a mention of its value surer. Order: tags as the card has them, then
    by first evidence; labels behind, as the card has them.
    """
    merged: dict[tuple[int, str], Tag] = {}
    flags = set()
    tag_set = card.tags
    for span in answer.spans:
        tag_type = tag_set[span.tag - 1]
        place = _place(prepared, span)
        if span.confidence < tag_type.threshold or place is None:
            continue
        value, evidence = _cut(place)
        if flag := compliance.withheld(value, _word(place), rules.claims(tag_type.name)):
            flags.add(flag)
            continue
        normalized = rules.normalize(tag_type.name, value)
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
    tags = [tag for _, tag in sorted(merged.items(), key=lambda item: item[0][0])]
    for label, confidence in zip(card.labels, answer.labels, strict=True):
        if confidence < label.threshold or not prepared.ids:  # of no words at all nothing is said
            continue
        if flag := compliance.withheld(label.value, label.value, rules.claims(label.name)):
            flags.add(flag)
            continue
        for at, tag in enumerate(tags):
            if (tag.name, tag.normalized) == (label.name, label.value):
                tags[at] = replace(tag, confidence=max(confidence, tag.confidence))
                break
        else:
            tags.append(Tag(label.name, label.value, label.value, confidence, label.kind, ()))
    return Tagging(tuple(tags), (*prepared.flags, *sorted(flags)))


def locate(prepared: Prepared, span: Span) -> tuple[str, Evidence] | None:
    """The span's words without punctuation at their edges, and their place in the original field."""
    place = _place(prepared, span)
    return None if place is None else _cut(place)


def _place(prepared: Prepared, span: Span) -> tuple[Field, int, int] | None:
    """The span's field and its place in the clean text, without punctuation at its edges and with whole Latin words: a
    tokenizer cuts rare words (LE|AK), and the head may take only a piece."""
    field = prepared.fields[prepared.sources[span.first]]
    start, end = prepared.starts[span.first], prepared.ends[span.last - 1]
    text = field.clean.text
    start, end = _edges(text, start, end)
    if start == end:
        return None
    first, last = max(start - _WORD_CHARS, 0), min(end + _WORD_CHARS, len(text))
    while start > first and _letters(text[start - 1 : start + 1]):
        start -= 1
    while end < last and _letters(text[end - 1 : end + 1]):
        end += 1
    return field, start, end


def _edges(text: str, start: int, end: int) -> tuple[int, int]:
    """A place without the punctuation at its edges that is no part of the value: `(New!)` is New.

    What is: the dot of .5 oz and of U.S.A., inches, pluses (6+, PA++), a bracket whose other half is within: B1 (New).
    """
    words = text[start:end]
    last = start + len(words.rstrip(_EDGES))
    first = end - len(words.lstrip(_EDGES))
    if first >= last:
        return start, start
    behind = text[last:end]
    if behind.startswith("+"):
        last += len(behind) - len(behind.lstrip("+"))
    elif _SIGNED.search(text, first, last + len(behind[:1])):
        last += 1
    if text[first].isdigit() and text.endswith(".", start, first):
        first -= 1
    for opening, closing in _BRACKETS:
        more = text.count(opening, first, last) - text.count(closing, first, last)
        if more > 0 and text.startswith(closing, last):
            last += 1
        elif more < 0 and text.endswith(opening, 0, first):
            first -= 1
    return first, last


def _letters(two: str) -> bool:
    return two.isascii() and two.isalpha()


def _cut(place: tuple[Field, int, int]) -> tuple[str, Evidence]:
    field, start, end = place
    value, raw_start, raw_end = field.clean.locate(start, end)
    return value, Evidence(field.name, raw_start, raw_end)


def _word(place: tuple[Field, int, int]) -> str:
    """The value with the rest of the Latin words or numbers that it begins and ends in: john of john@example.com."""
    field, start, end = place
    text = field.clean.text
    before = _WORD.match(text[max(0, start - _WORD_CHARS) : start + 1][::-1])
    behind = _WORD.match(text[end - 1 : end + _WORD_CHARS])
    start -= max(0, len(before[0]) - 1) if before else 0
    end += max(0, len(behind[0]) - 1) if behind else 0
    return text[start:end]
