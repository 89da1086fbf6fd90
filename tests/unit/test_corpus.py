import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from taggen import corpus
from taggen.corpus import LABELS, OA_MINE, TAGS, Labelled, Span
from taggen.errors import CorpusError
from taggen.listing import Listing
from taggen.tag import Evidence, Tag, Tagging

ROW = {"id": "1", "merchant_id": "m", "title": "<brand>Nike</brand> <color>red</color> shoe"}

_PUNCTUATION = ",;:!?,。、;:"


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Write a file of JSON lines; a string is a line as it is."""

    def write(*rows: object) -> Path:
        path = tmp_path / "data.jsonl"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return path

    return write


def training() -> list[Labelled]:
    """All the listings that ship for training."""
    return [item for path in corpus.train_files() for item in corpus.read(path)]


def test_marks_become_spans(file: Callable[..., Path]) -> None:
    """The marks are gone from the text, and the spans cut what was marked out of it, in every field."""
    row = ROW | {"description": "a <color>red</color>", "attributes": {"Colour": "<color>Red</color>"}, "locale": "en"}
    (item,) = corpus.read(file(row))
    assert item.listing.title == "Nike red shoe"
    assert item.spans == (
        Span("title", 0, 4, "brand"),
        Span("title", 5, 8, "color"),
        Span("description", 2, 5, "color"),
        Span("attributes.Colour", 0, 3, "color"),
    )
    assert [item.text(span.field)[span.start : span.end] for span in item.spans] == ["Nike", "red", "red", "Red"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "not an object"),
        ('"x"', "not an object"),
        (ROW | {"title": "<brand>Nike"}, "title: <brand> is not closed"),
        (ROW | {"title": "Nike</brand>"}, "title: unexpected </brand>"),
        (ROW | {"title": "<brand>Nike <color>red</color></brand>"}, "title: unexpected <color>"),
        (ROW | {"title": "<brand>Nike</color>"}, "title: unexpected </color>"),
        (ROW | {"title": "<brand></brand>Nike"}, "title: unexpected </brand>"),
        (ROW | {"title": "<brad>Nike</brad>"}, "title: unexpected <brad>"),
        (ROW | {"attributes": {"Upper": "<material>mesh"}}, "attributes.Upper: <material> is not closed"),
        (ROW | {"attributes": ["x"]}, "attributes: not a map"),
        (ROW | {"attributes": {"a": 1}}, "attributes: not a map of strings"),
        (ROW | {"title": 7}, "title: not a string"),
        (ROW | {"id": None}, "product_id: missing"),
        (ROW | {"labels": ["shoes"]}, "labels: not a map"),
        (ROW | {"labels": {"category": [7]}}, "labels.category: neither a string nor a list"),
        (ROW | {"labels": {"category": [""]}}, "labels.category: '' is no value of 1 to 64 printable characters"),
        (ROW | {"labels": {"category": "a\nb"}}, "labels.category: 'a\\\\nb' is no value"),
        (ROW | {"labels": {"<b>": "a"}}, "label name '<b>'"),
        (ROW | {"labels": {"category": ["clogs"]}}, "labels.category: unexpected 'clogs'"),
        (ROW | {"labels": {"kind": ["shoes"]}}, "labels.kind: none of category, audience_group, occasion_group"),
    ],
)
def test_a_bad_line_is_named(row: object, message: str, file: Callable[..., Path]) -> None:
    """The message starts with file and line."""
    path = file(ROW, "", row)
    with pytest.raises(CorpusError, match=message) as caught:
        corpus.read(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_labels_come_along_with_marks(file: Callable[..., Path]) -> None:
    """The package's own files have closed lists of them, other files whatever labels they like."""
    ours = ROW | {"labels": {"category": "shoes", "audience_group": ["women", "men"], "occasion_group": []}}
    (item,) = corpus.read(file(ours))
    assert item.labels == {"category": ("shoes",), "audience_group": ("women", "men"), "occasion_group": ()}
    (other,), _ = corpus.read_any(file(ROW | {"labels": {"kind": ["clogs"]}}))
    assert other.labels == {"kind": ("clogs",)}


def test_a_line_ends_at_its_end(file: Callable[..., Path]) -> None:
    """Unicode's line separator may stand in a string of JSON, unescaped."""
    (item,) = corpus.read(file('{"id": "1", "merchant_id": "m", "title": "a\u2028<brand>b</brand>"}'))
    assert item.spans == (Span("title", 2, 3, "brand"),)


def test_what_is_no_text_file_is_named(tmp_path: Path) -> None:
    """Not there, or not UTF-8."""
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name in ("latin", "absent"):
        with pytest.raises(CorpusError, match=name):
            corpus.read(tmp_path / name)


def test_target_scores_are_found_in_the_title(file: Callable[..., Path]) -> None:
    """A value is marked where its words stand whole; the longer of two chooses first; unmapped names are left out."""
    title = "Redskin Red Wing red, dark red boots 2-pack 红色Red"
    scores = {"Color": {"red": 1, "dark red": 1}, "Brand": {"Red Wing": 1}, "Boot shaft": {"2": 1}}
    (item,), report = corpus.read_any(file({"input": title, "target_scores": scores, "category": "Shoes"}), OA_MINE)
    assert item.partial
    assert item.listing.category == "Shoes"
    assert [(title[span.start : span.end], span.tag, span.start) for span in item.spans] == [
        ("Red Wing", "brand", 8),
        ("red", "color", 17),
        ("dark red", "color", 22),
    ]
    assert report.marks == {"brand": 1, "color": 2}
    assert report.findings == []


def test_values_of_several_attributes_share_words(file: Callable[..., Path]) -> None:
    """Where a value stands nowhere else: a free place goes first, and one attribute's values never share any."""
    title = "polycarbonate ski goggles, red and dark red"
    scores = {
        "Lens": ["polycarbonate"],
        "Material": ["polycarbonate"],
        "Type": ["ski goggles", "ski"],
        "Color": ["red"],
    }
    (item,), _ = corpus.read_any(file({"input": title, "target_scores": scores | {"Shade": ["dark red"]}}))
    assert [(span.tag, span.start, span.end) for span in item.spans] == [
        ("Lens", 0, 13),
        ("Material", 0, 13),
        ("Type", 14, 25),
        ("Color", 27, 30),
        ("Shade", 35, 43),
    ]


def test_values_without_one_exact_place_are_reported(file: Callable[..., Path]) -> None:
    """With file, line, tag and value: the first of several places is marked, of a longer word all, a missing value is
    not."""
    title = "Women's cap with Letters for women's heads, 2.5 oz, navy红"
    scores = {
        "Gender": {"omen": 1, "women": 1},
        "Head": ["heads"],
        "Pattern": {"Letter": 1},
        "Weight": {"5 oz": 1},
        "Brand": {"n/a": 1},
        "Color": {"NAVY": 1, "红": 1},
        "Owner": {"'s": 1},
    }
    path = file("", {"input": title, "target_scores": scores})
    (item,), report = corpus.read_any(path)
    assert not item.partial
    assert [(title[span.start : span.end], span.tag) for span in item.spans] == [
        ("'s", "Owner"),
        ("Letters", "Pattern"),
        ("women", "Gender"),
        ("heads", "Head"),
        ("navy", "Color"),
        ("红", "Color"),
    ]
    assert [finding.where for finding in report.findings] == [f"{path}:2"] * len(report.findings)
    assert {(finding.tag, finding.value, finding.doubt) for finding in report.findings} == {
        ("Pattern", "Letter", "inside a longer word"),
        ("Gender", "omen", "missing"),
        ("Weight", "5 oz", "missing"),
        ("Color", "NAVY", "other case"),
        ("Owner", "'s", "several places"),
    }
    assert report.absent == 1
    assert report.doubts["missing"] == 2


def test_offsets_of_several_tags_may_share_words(file: Callable[..., Path]) -> None:
    """Those of one tag may not (below)."""
    spans = [{"start": 0, "end": 8, "tag": "a"}, {"start": 5, "end": 8, "tag": "b"}]
    (item,), _ = corpus.read_any(file({"title": "Nike red", "spans": spans}))
    assert [(span.tag, span.start, span.end) for span in item.spans] == [("a", 0, 8), ("b", 5, 8)]


def test_offsets_and_labels_are_read(file: Callable[..., Path]) -> None:
    """In every field, under both names for a tag; labels of the listing as a whole come along."""
    row = {
        "title": "Nike 红鞋",
        "attributes": {"Colour": "Red"},
        "spans": [
            {"field": "attributes.Colour", "start": 0, "end": 3, "tag": "color"},
            {"start": 5, "end": 6, "label": "color", "text": "红"},
            {"start": 0, "end": 4, "tag": "brand"},
        ],
        "labels": {"audience": ["women", "men"], "category": "shoes"},
    }
    (item,), report = corpus.read_any(file(row))
    assert item.spans == (
        Span("attributes.Colour", 0, 3, "color"),
        Span("title", 0, 4, "brand"),
        Span("title", 5, 6, "color"),
    )
    assert item.labels == {"audience": ("women", "men"), "category": ("shoes",)}
    assert (item.listing.merchant_id, item.listing.product_id) == ("-", "1")
    assert report.listings == 1


def test_tabbed_lines_are_read(tmp_path: Path) -> None:
    """JD's form: document, sentence, text and marked text; tags in Chinese."""
    path = tmp_path / "data.tsv"
    path.write_text(
        "c_1\ts_2\t红色的棉衣\t<颜色>红色</颜色>的<材质>棉</材质>衣\n\nc_1\ts_3\t无\t无\n", encoding="utf-8"
    )
    (first, second), report = corpus.read_any(path)
    assert first.listing.product_id == "c_1/s_2"
    assert first.spans == (Span("title", 0, 2, "颜色"), Span("title", 3, 4, "材质"))
    assert second.spans == ()
    assert report.marks == {"颜色": 1, "材质": 1}


_NIKE = {"title": "Nike"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"input": "x", "target_scores": 3}, "target_scores: not a map"),
        ({"input": "x", "target_scores": {"Brand": 3}}, "target_scores: not a map"),
        ({"target_scores": {}}, "title: missing"),
        ({"input": "x", "target_scores": {"<b>": {"x": 1}}}, "tag name '<b>'"),
        (_NIKE | {"spans": 1}, "spans: not a list"),
        (_NIKE | {"spans": ["x"]}, "span 1: AttributeError"),
        (_NIKE | {"spans": [{"start": 0, "end": 4}]}, "span 1: KeyError.*label"),
        (_NIKE | {"spans": [{"start": 0, "end": "4", "tag": "a"}]}, "span 1: start and end must be integers"),
        (_NIKE | {"spans": [{"start": 0, "end": 5, "tag": "a"}]}, "span 1: 0 to 5 is not within the 4 characters"),
        (_NIKE | {"spans": [{"start": 2, "end": 2, "tag": "a"}]}, "span 1: 2 to 2"),
        (_NIKE | {"spans": [{"start": 0, "end": 2, "tag": "a", "text": "Ike"}]}, "is 'Ni', not 'Ike'"),
        (_NIKE | {"spans": [{"field": "attributes.x", "start": 0, "end": 2, "tag": "a"}]}, "no field 'attributes.x'"),
        (_NIKE | {"spans": [{"field": "attributes", "start": 0, "end": 2, "tag": "a"}]}, "no field 'attributes'"),
        (_NIKE | {"spans": [{"start": s, "end": 4, "tag": "a"} for s in (0, 2)]}, "spans of a overlap at 2 in title"),
        (_NIKE | {"spans": [], "labels": []}, "labels: not a map"),
        (_NIKE | {"spans": [], "labels": {"a": [1]}}, "labels.a: neither a string nor a list"),
        ("a\tb", "2 columns"),
        ("c\ts\tred\t<色>rot</色>", "the marked text differs"),
        ("c\ts\tred\t<色>red", "<色> is not closed"),
    ],
)
def test_a_bad_line_of_any_form_is_named(line: object, message: str, file: Callable[..., Path]) -> None:
    """The message starts with file and line."""
    path = file(_NIKE, line)
    with pytest.raises(CorpusError, match=message) as caught:
        corpus.read_any(path)
    assert str(caught.value).startswith(f"{path}:2: ")


def test_the_labels_that_occur_are_the_label_set(file: Callable[..., Path]) -> None:
    """In our own order, others' behind by frequency with a name's values together; without marks there are no tags."""
    rows = [
        {"title": "a", "labels": {"occasion_group": ["work", "home"], "category": "shoes", "Use": ["x"]}},
        {"title": "b", "labels": {"Use": ["y", "x"], "category": ["bags", "my own"], "kind": []}},
        {"title": "c", "labels": {"Grade": "A", "Use": "x"}},
    ]
    labelled, _ = corpus.read_any(file(*rows))
    assert list(corpus.label_set(labelled).items()) == [
        (("category", "shoes"), "attribute"),
        (("category", "bags"), "attribute"),
        (("category", "my own"), "attribute"),
        (("occasion_group", "work"), "occasion"),
        (("occasion_group", "home"), "occasion"),
        (("Use", "x"), "attribute"),
        (("Use", "y"), "attribute"),
        (("Grade", "A"), "attribute"),
    ]
    assert corpus.tag_set(labelled) == {}
    assert all(item.partial for item in labelled)
    marked, _ = corpus.read_any(file({"title": "<brand>a</brand>", "labels": {"Use": "x"}}))
    assert not marked[0].partial


def test_the_tag_set_is_the_default_one_or_the_datas_own(file: Callable[..., Path]) -> None:
    """Other names make a set of their own, the most frequent first, with kinds where names tell."""
    ours, _ = corpus.read_any(file(ROW))
    assert corpus.tag_set(ours) == dict(TAGS)
    marked = ROW | {"title": "<功能>防水</功能> <Brand>Nike</Brand> <颜色>红</颜色> <颜色>白</颜色>"}
    theirs, _ = corpus.read_any(file(marked))
    assert list(corpus.tag_set(theirs).items()) == [("颜色", "attribute"), ("Brand", "attribute"), ("功能", "function")]


def test_a_mapping_is_an_object_of_names(tmp_path: Path) -> None:
    """Anything else is named."""
    path = tmp_path / "map.json"
    path.write_text('{"品牌": "brand"}', encoding="utf-8")
    assert corpus.read_mapping(path) == {"品牌": "brand"}
    for text in ("[]", "{", '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(CorpusError, match=r"map\.json"):
            corpus.read_mapping(path)


def test_a_file_without_listings_is_an_error(file: Callable[..., Path]) -> None:
    """Nobody means to train on nothing."""
    with pytest.raises(CorpusError, match="no listings"):
        corpus.read_any(file(""))


def test_the_listings_that_ship_are_well_made() -> None:
    """Each has tags of the tag set, marked tightly, and an id of its own; there are English and Chinese ones."""
    assert len(corpus.held_out()) >= 60
    for items in (training(), corpus.held_out()):
        ids = [item.listing.product_id for item in items]
        assert len(set(ids)) == len(ids)
        for item in items:
            assert item.spans, item.listing.product_id
            for span in item.spans:
                value = item.text(span.field)[span.start : span.end]
                assert value == value.strip(), (item.listing.product_id, value)
                assert value[0] not in _PUNCTUATION, (item.listing.product_id, value)
                assert value[-1] not in _PUNCTUATION, (item.listing.product_id, value)
        languages = [(item.listing.locale or "").partition("-")[0] for item in items]
        assert min(languages.count("en"), languages.count("zh")) >= 25
        assert {span.tag for item in items for span in item.spans} == TAGS.keys()


def test_every_listing_that_ships_has_its_labels() -> None:
    """All three, with one or two categories; a value that is taught occurs 15 times at least."""
    taught: Counter[tuple[str, str]] = Counter()
    for items in (training(), corpus.held_out()):
        for item in items:
            assert item.labels.keys() == LABELS.keys(), item.listing.product_id
            assert len(item.labels["category"]) in (1, 2), item.listing.product_id
            for values in item.labels.values():
                assert len(set(values)) == len(values), item.listing.product_id
    for item in training():
        taught.update((name, value) for name, values in item.labels.items() for value in values)
    assert min(taught[name, value] for name in LABELS for value in LABELS[name]) >= 15
    assert LABELS.keys().isdisjoint(TAGS)


def test_no_held_out_listing_is_trained_on() -> None:
    """Neither title nor description nor a product of the same brand and model occurs in the training files, nor a
    model's name of some length in whatever words and marks."""
    held_out, trained = corpus.held_out(), training()

    def texts(items: list[Labelled]) -> set[str]:
        fields = [text for item in items for text in (item.listing.title, item.listing.description) if text]
        return {" ".join(text.casefold().split()) for text in fields}

    def products(items: list[Labelled]) -> set[tuple[str, str]]:
        found = set()
        for item in items:
            values = {tag: [item.text(s.field)[s.start : s.end] for s in item.spans if s.tag == tag] for tag in TAGS}
            found |= {(b.casefold(), m.casefold()) for b in values["brand"] for m in values["model_name"]}
        return found

    assert texts(held_out) & texts(trained) == set()
    assert products(held_out) & products(trained) == set()
    models = {model for _, model in products(held_out) if len(model) > 3}
    every_text = "\n".join(
        text.casefold()
        for item in trained
        for text in (item.listing.title, item.listing.description or "", *item.listing.attributes.values())
    )
    assert {model for model in models if model in every_text} == set()
    assert {item.listing.product_id for item in held_out} & {item.listing.product_id for item in trained} == set()


def test_a_tagger_says_what_a_listing_has_and_lacks() -> None:
    """Words become spans; of the labels that the tagger knows each name is there, with the values that it said."""
    listing = Listing("m", "1", 1, "Nike red shoe", attributes={"Colour": "red"})
    places = Evidence("title", 5, 8), Evidence("attributes.Colour", 0, 3)
    tagging = Tagging(
        (
            Tag("color", "red", "red", 0.9, "attribute", places),
            Tag("category", "shoes", "shoes", 0.8, "category", ()),
        )
    )
    known = [("category", "shoes"), ("category", "bags"), ("audience_group", "men")]
    said = corpus.as_said(listing, tagging, known)
    assert said.spans == (Span("title", 5, 8, "color"), Span("attributes.Colour", 0, 3, "color"))
    assert said.labels == {"category": ("shoes",), "audience_group": ()}


def test_the_digest_is_of_the_files_bytes(file: Callable[..., Path]) -> None:
    """One character more makes another digest."""
    before = corpus.digest([file(ROW)])
    assert before == corpus.digest([file(ROW)])
    assert before != corpus.digest([file(ROW, "")])
