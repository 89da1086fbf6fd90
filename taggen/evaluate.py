"""How good tags are: precision, recall and F1 over marked mentions, exact and partial, and over listings' labels.

A mention is a span of a field under a tag. It is found exactly when field, span and tag are right; it is found in part
when field and tag are right and the spans overlap, each found mention standing for one marked one at most.
In a partial listing only those found mentions count that touch a mark: nobody knows whether the others are right.
A listing's labels are scored apart from mentions, by name and value, for the names of which the listing says something.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taggen import head, postprocess
from taggen.corpus import Label, Labelled, Span
from taggen.tag import Tagging
from taggen.tagger import Tagger
from taggen.windows import Prepared

MICRO = "micro"

Counts = tuple[Counter[str], Counter[str], Counter[str]]  # what there is, what was found, and what is right, by name


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of mentions, and what follows from them."""

    marked: int
    found: int
    right: int

    @property
    def precision(self) -> float:
        """Share of the found mentions that are right."""
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Share of the marked mentions that were found."""
        return self.right / self.marked if self.marked else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / (self.marked + self.found) if self.marked + self.found else 0.0

    def rounded(self) -> dict[str, float | int]:
        """The figures for a card or a table, in percent."""
        return {
            "precision": round(100 * self.precision, 1),
            "recall": round(100 * self.recall, 1),
            "f1": round(100 * self.f1, 1),
            "marked": self.marked,
        }


@dataclass(frozen=True, slots=True)
class Output:
    """What came out for a listing: its tags, and with their confidences all mentions that the head reads and all labels
    that it knows: those below their thresholds too."""

    tagging: Tagging
    mentions: Mapping[Span, float]
    labels: Mapping[Label, float]


def read_all(
    tagger: Tagger,
    labelled: Sequence[Labelled],
    batch_listings: int = 32,
    progress: Callable[[int], None] = lambda listings: None,
    least: float = head.READ,
) -> list[Output]:
    """Run the tagger over a labelled set, in order, for mentions more probable than `least`."""
    outputs: list[Output] = []
    labels = [(label.name, label.value) for label in tagger.card.labels]
    for at in range(0, len(labelled), batch_listings):
        prepared = tagger.prepare([item.listing for item in labelled[at : at + batch_listings]])
        for listing, answer in zip(prepared, tagger.read(prepared, least=least), strict=True):
            mentions = _mentions(tagger, listing, answer.spans)
            of_labels = dict(zip(labels, answer.labels, strict=True))
            outputs.append(Output(tagger.finish(listing, answer), mentions, of_labels))
        progress(len(outputs))
    return outputs


def _mentions(tagger: Tagger, listing: Prepared, spans: Iterable[head.Span]) -> dict[Span, float]:
    mentions: dict[Span, float] = {}
    for span in spans:
        located = postprocess.locate(listing, span)
        if located is not None:
            place = located[1]
            mention = Span(place.field, place.start, place.end, tagger.card.tags[span.tag - 1].name)
            mentions[mention] = max(span.confidence, mentions.get(mention, 0.0))
    return mentions


def tag_all(tagger: Tagger, labelled: Sequence[Labelled], batch_listings: int = 32) -> list[Tagging]:
    """Tag the listings of a labelled set, in order."""
    return [output.tagging for output in read_all(tagger, labelled, batch_listings)]


def found(item: Labelled, tagging: Tagging) -> set[Span]:
    """The mentions among a listing's tags that count."""
    return counted(
        item,
        {
            Span(evidence.field, evidence.start, evidence.end, tag.name)
            for tag in tagging.tags
            for evidence in tag.evidence
        },
    )


def counted(item: Labelled, mentions: set[Span]) -> set[Span]:
    """Leave out what nobody can judge: in a partial listing, mentions that touch no mark."""
    if not item.partial:
        return mentions
    return {mention for mention in mentions if any(overlap(mention, span) for span in item.spans)}


def overlap(one: Span, other: Span) -> int:
    """Characters that two mentions share."""
    return max(0, min(one.end, other.end) - max(one.start, other.start)) if one.field == other.field else 0


def pairs(marked: Iterable[Span], mentions: Iterable[Span]) -> list[tuple[Span, Span]]:
    """Marked and found mentions of one tag that overlap, each in one pair at most, the closest first."""
    candidates = [
        (one == other, overlap(one, other), one, other)
        for one in marked
        for other in mentions
        if one.tag == other.tag and overlap(one, other)
    ]
    paired: list[tuple[Span, Span]] = []
    used: tuple[set[Span], set[Span]] = (set(), set())
    for _, _, one, other in sorted(candidates, key=lambda row: (-row[0], -row[1], row[2].start, row[3].start)):
        if one not in used[0] and other not in used[1]:
            used[0].add(one)
            used[1].add(other)
            paired.append((one, other))
    return paired


def counts(item: Labelled, tagging: Tagging, partial: bool = False) -> Counts:
    """Mentions marked, found and right in one listing, by tag."""
    marked, mentions = set(item.spans), found(item, tagging)
    right = {one for one, _ in pairs(marked, mentions)} if partial else marked & mentions
    by_tag = [Counter(mention.tag for mention in some) for some in (marked, mentions, right)]
    return by_tag[0], by_tag[1], by_tag[2]


def label_counts(item: Labelled, tagging: Tagging) -> Counts:
    """Labels that one listing has, that were found, and that are right, by name; only names that it knows of."""
    has = {(name, value) for name, values in item.labels.items() for value in values}
    found_ = {(tag.name, tag.normalized) for tag in tagging.tags if tag.name in item.labels}
    by_name = [Counter(name for name, _ in some) for some in (has, found_, has & found_)]
    return by_name[0], by_name[1], by_name[2]


def score(labelled: Sequence[Labelled], taggings: Sequence[Tagging], partial: bool = False) -> dict[str, Score]:
    """Scores by tag name, and over all tags under the name `micro`; `partial` counts overlaps as right."""
    return _score(counts(item, tagging, partial) for item, tagging in zip(labelled, taggings, strict=True))


def label_score(labelled: Sequence[Labelled], taggings: Sequence[Tagging]) -> dict[str, Score]:
    """Scores of listings' labels by name, and over all under `micro`; none where no listing has any."""
    if not any(item.labels for item in labelled):
        return {}
    return _score(label_counts(item, tagging) for item, tagging in zip(labelled, taggings, strict=True))


def _score(counted_: Iterable[Counts]) -> dict[str, Score]:
    sums: Counts = (Counter(), Counter(), Counter())
    for its in counted_:
        for counter, more in zip(sums, its, strict=True):
            counter.update(more)
            counter[MICRO] += more.total()
    marked, mentions, right = sums
    return {
        name: Score(marked[name], mentions[name], right[name])
        for name in sorted({MICRO} | marked.keys() | mentions.keys())
    }


def by_language(labelled: Sequence[Labelled], taggings: Sequence[Tagging]) -> dict[str, dict[str, Score]]:
    """Scores over all listings under `all`, and for each language (of the locale) apart."""
    languages = [(item.listing.locale or "").partition("-")[0] for item in labelled]
    scores = {"all": score(labelled, taggings)}
    for language in sorted(set(languages)):
        chosen = [index for index, its in enumerate(languages) if its == language]
        scores[language] = score([labelled[i] for i in chosen], [taggings[i] for i in chosen])
    return scores


def card(scores: Mapping[str, Mapping[str, Score]]) -> dict[str, Any]:
    """The figures for an adapter's card, in percent."""
    return {language: {tag: one.rounded() for tag, one in by_tag.items()} for language, by_tag in scores.items()}
