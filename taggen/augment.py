"""Variations of labelled listings, so that a tag is learnt from its place and not from its value."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from taggen.corpus import Labelled, Span

# How often a value is swapped for another of the same tag: often where values are open-ended, seldom where the rest of
# the listing would no longer fit.
_SWAP = {"brand": 0.5, "model_name": 0.5, "color": 0.5, "size": 0.4, "flavor": 0.4, "product_type": 0.1}
_SWAP_OTHERS = 0.3
# The listing-level labels that rest on the words of a tag, as the package's listings name them.
_LABEL_OF = {"product_type": "category", "audience": "audience_group", "occasion": "occasion_group"}
_DROP_DESCRIPTION = 0.15
_DROP_ATTRIBUTES = 0.25
_DROP_ATTRIBUTE = 0.1
_CHANGE_CASE = 0.1

_Pool = tuple[str, str, tuple[str, ...] | None]  # language, tag, values of the label that rests on it


class Augmenter:
    """Varies listings with the values that occur under the same language and tag, where listing-level labels rest on
    the tag in listings with the same labels only: men's is never swapped for girls' where the label says men."""

    def __init__(self, labelled: Sequence[Labelled]) -> None:
        values: dict[_Pool, set[str]] = defaultdict(set)
        for item in labelled:
            for span in item.spans:
                values[_pool(item, span.tag)].add(item.text(span.field)[span.start : span.end])
        self._values = {key: sorted(found) for key, found in values.items()}

    def vary(self, item: Labelled, random_: random.Random) -> Labelled:
        """A variation of the listing, its spans moved along.

        Where a field is left out that said whom or what occasion it is for, the label for that is left out too.
        """
        swaps: dict[tuple[str, str], str] = {}  # one value is swapped for the same other everywhere in the listing
        for span in item.spans:
            key = (span.tag, item.text(span.field)[span.start : span.end])
            if key not in swaps:
                swap = random_.random() < _SWAP.get(span.tag, _SWAP_OTHERS)
                swaps[key] = random_.choice(self._values[_pool(item, span.tag)]) if swap else key[1]
        change_case = random_.choice((str.lower, str.upper)) if random_.random() < _CHANGE_CASE else None
        kept = _fields(item, random_)
        texts: dict[str, str] = {}
        spans: list[Span] = []
        for field in kept:
            texts[field], moved = _rewrite(item, field, swaps)
            if change_case is not None and len(change_case(texts[field])) == len(texts[field]):  # "ß" grows
                texts[field] = change_case(texts[field])
            spans.extend(moved)
        attributes = {
            key: texts[f"attributes.{key}"] for key in item.listing.attributes if f"attributes.{key}" in texts
        }
        listing = replace(
            item.listing, title=texts["title"], description=texts.get("description"), attributes=attributes
        )
        return replace(item, listing=listing, spans=tuple(spans), labels=_known_labels(item, kept))


def _pool(item: Labelled, tag: str) -> _Pool:
    language = (item.listing.locale or "en").partition("-")[0]
    return language, tag, item.labels.get(_LABEL_OF.get(tag, ""))


def _known_labels(item: Labelled, kept: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The labels that the kept fields still tell; the title always does the category."""
    lost = {_LABEL_OF.get(span.tag) for span in item.spans if span.field not in kept} - {"category"}
    return {name: values for name, values in item.labels.items() if name not in lost or not values}


def _fields(item: Labelled, random_: random.Random) -> list[str]:
    fields = ["title"]
    if item.listing.description and random_.random() >= _DROP_DESCRIPTION:
        fields.append("description")
    if random_.random() >= _DROP_ATTRIBUTES:
        fields += [f"attributes.{key}" for key in item.listing.attributes if random_.random() >= _DROP_ATTRIBUTE]
    return fields


def _rewrite(item: Labelled, field: str, swaps: dict[tuple[str, str], str]) -> tuple[str, list[Span]]:
    """A field's text with its values swapped, and its spans there. Values that share words stay as they are."""
    original = item.text(field)
    text = ""
    at = 0
    spans = []
    for together in _clusters(span for span in item.spans if span.field == field):
        start, end = together[0].start, max(span.end for span in together)
        text += original[at:start]
        begin = len(text)
        if len(together) == 1:
            text += swaps[together[0].tag, original[start:end]]
            spans.append(Span(field, begin, len(text), together[0].tag))
        else:
            text += original[start:end]
            spans += [Span(field, begin + s.start - start, begin + s.end - start, s.tag) for s in together]
        at = end
    return text + original[at:], spans


def _clusters(spans: Iterable[Span]) -> list[list[Span]]:
    """Spans of a field in order, those that share words together."""
    clusters: list[list[Span]] = []
    end = 0
    for span in sorted(spans, key=lambda span: span.start):
        if not clusters or span.start >= end:
            clusters.append([])
        clusters[-1].append(span)
        end = max(end, span.end)
    return clusters
