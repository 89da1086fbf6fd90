import random
from collections import Counter, defaultdict

from taggen import corpus
from taggen.augment import Augmenter
from taggen.listing import Listing


def language(item: corpus.Labelled) -> str:
    """The language of a listing's locale."""
    return (item.listing.locale or "en").partition("-")[0]


def test_spans_cut_the_swapped_values() -> None:
    """Every span of every variation cuts a value that somewhere is marked with the same tag in the same language."""
    items = [item for path in corpus.train_files()[:3] for item in corpus.read(path)]
    values = defaultdict(set)
    for item in items:
        for span in item.spans:
            values[language(item), span.tag].add(item.text(span.field)[span.start : span.end].casefold())
    augmenter = Augmenter(items)
    random_ = random.Random(0)  # noqa: S311
    changed: Counter[str] = Counter()
    for item in items:
        varied = augmenter.vary(item, random_)
        assert varied.listing.title
        assert varied.listing.attributes.keys() <= item.listing.attributes.keys()
        for span in varied.spans:
            value = varied.text(span.field)[span.start : span.end]
            assert value.casefold() in values[language(item), span.tag]
        before = Counter(span.tag for span in item.spans if span.field == "title")
        assert before == Counter(span.tag for span in varied.spans if span.field == "title")
        changed["title"] += varied.listing.title != item.listing.title
        changed["description"] += varied.listing.description is None and item.listing.description is not None
        changed["attributes"] += varied.listing.attributes.keys() < item.listing.attributes.keys()
    assert all(len(items) / 20 < count < len(items) for count in changed.values()), changed


def test_one_value_is_swapped_for_one_other() -> None:
    """A brand that stands in title and description stays one brand."""
    listing = Listing("m", "p", 1, "Nike shoe", description="Nike", locale="en-US")
    spans = (corpus.Span("title", 0, 4, "brand"), corpus.Span("description", 0, 4, "brand"))
    other = corpus.Labelled(Listing("m", "q", 1, "Fjällräven", locale="en"), (corpus.Span("title", 0, 10, "brand"),))
    augmenter = Augmenter([corpus.Labelled(listing, spans), other])
    seen = set()
    for seed in range(60):
        varied = augmenter.vary(corpus.Labelled(listing, spans), random.Random(seed))  # noqa: S311
        values = {varied.text(span.field)[span.start : span.end] for span in varied.spans}
        assert len(values) == 1
        assert varied.listing.title.split()[0] in values
        seen |= values
    assert {"Nike", "Fjällräven", "NIKE"} <= seen


def test_values_that_share_words_stay() -> None:
    """What is within another value would be lost with a swap; both move along behind one that is swapped."""
    words = ("red", "polycarbonate goggles", "polycarbonate")
    tags = ("color", "product_type", "material")

    def item(product: str, title: str, *words: str) -> corpus.Labelled:
        spans = [
            corpus.Span("title", title.index(word), title.index(word) + len(word), tag)
            for word, tag in zip(words, tags, strict=False)
        ]
        return corpus.Labelled(Listing("m", product, 1, title, locale="en"), tuple(spans))

    one, other = item("1", "red polycarbonate goggles", *words), item("2", "turquoise shoe", "turquoise")
    augmenter = Augmenter([one, other])
    seen = set()
    for seed in range(60):
        varied = augmenter.vary(one, random.Random(seed))  # noqa: S311
        values = [varied.text(span.field)[span.start : span.end].casefold() for span in varied.spans]
        assert values[1:] == ["polycarbonate goggles", "polycarbonate"]
        seen.add(values[0])
    assert seen == {"red", "turquoise"}


def test_a_swap_never_contradicts_a_label() -> None:
    """What a label rests on is swapped for what listings with the same label say; without labels for anything."""

    def item(product: str, word: str, **labels: tuple[str, ...]) -> corpus.Labelled:
        span = corpus.Span("title", 0, len(word), "audience")
        return corpus.Labelled(Listing("m", product, 1, f"{word} shoe", locale="en"), (span,), labels=labels)

    men, gents = (item(word, word, audience_group=("men",)) for word in ("Men's", "Gents"))
    others = [item("women", "Women's", audience_group=("women",)), item("any", "Boys")]
    augmenter = Augmenter([men, gents, *others])
    random_ = random.Random(0)  # noqa: S311
    varied = [augmenter.vary(men, random_) for _ in range(60)]
    assert {one.listing.title.partition(" ")[0].casefold() for one in varied} == {"men's", "gents"}
    assert {tuple(one.labels.items()) for one in varied} == {(("audience_group", ("men",)),)}
    unlabelled = Augmenter([item("1", "Men's"), item("2", "Women's")])
    titles = {unlabelled.vary(item("1", "Men's"), random_).listing.title.casefold() for _ in range(60)}
    assert titles == {"men's shoe", "women's shoe"}


def test_a_label_goes_with_the_field_that_said_it() -> None:
    """Known values become unknown when their words are dropped; known absence, and what the title says, stay."""
    listing = Listing("m", "p", 1, "Men's shoe", description="for the office", locale="en")
    spans = (corpus.Span("title", 0, 5, "audience"), corpus.Span("description", 8, 14, "occasion"))
    labels = {"category": ("shoes",), "audience_group": ("men",), "occasion_group": ("work",)}
    told = corpus.Labelled(listing, spans, labels=labels)
    none = corpus.Labelled(listing, spans, labels=labels | {"occasion_group": ()})
    augmenter = Augmenter([told, none])
    random_ = random.Random(0)  # noqa: S311
    dropped = set()
    for _ in range(60):
        varied = augmenter.vary(told, random_)
        gone = {"occasion_group"} if varied.listing.description is None else set()
        assert varied.labels == {name: values for name, values in labels.items() if name not in gone}
        assert augmenter.vary(none, random_).labels == none.labels
        dropped.add(bool(gone))
    assert dropped == {True, False}


def test_a_seed_gives_the_same_variation() -> None:
    """Whatever the order that sets of strings have in a process."""
    items = corpus.held_out()
    augmenter = Augmenter(items)
    first, second = ([augmenter.vary(item, random.Random(7)) for item in items] for _ in range(2))  # noqa: S311
    assert first == second
