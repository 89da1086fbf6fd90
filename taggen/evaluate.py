"""How good tags are: precision, recall and F1 over marked mentions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from taggen.corpus import Labelled
from taggen.tag import Tagging
from taggen.tagger import Tagger


@dataclass(frozen=True, slots=True)
class Score:
    """Counts of mentions, and what follows from them. A mention is right when field, span and tag are."""

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


def score(labelled: Sequence[Labelled], taggings: Sequence[Tagging]) -> dict[str, Score]:
    """Scores by tag name, and over all tags under the name `micro`."""
    marked: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for item, tagging in zip(labelled, taggings, strict=True):
        gold = {(span.field, span.start, span.end, span.tag) for span in item.spans}
        guess = {
            (evidence.field, evidence.start, evidence.end, tag.name)
            for tag in tagging.tags
            for evidence in tag.evidence
        }
        for counter, mentions in ((marked, gold), (found, guess), (right, gold & guess)):
            counter.update(mention[3] for mention in mentions)
            counter["micro"] += len(mentions)
    return {name: Score(marked[name], found[name], right[name]) for name in sorted(marked | found)}


def tag_all(tagger: Tagger, labelled: Sequence[Labelled], batch_listings: int = 32) -> list[Tagging]:
    """Tag the listings of a labelled set, in order."""
    taggings: list[Tagging] = []
    for at in range(0, len(labelled), batch_listings):
        listings = [item.listing for item in labelled[at : at + batch_listings]]
        taggings += tagger.tag(tagger.prepare(listings))
    return taggings


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
