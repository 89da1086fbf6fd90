import json
from collections.abc import Callable
from pathlib import Path

import pytest

from taggen import corpus
from taggen.corpus import OA_MINE, TAGS, Labelled, Span
from taggen.errors import CorpusError

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
    ],
)
def test_a_bad_line_is_named(row: object, message: str, file: Callable[..., Path]) -> None:
    """The message starts with file and line."""
    path = file(ROW, "", row)
    with pytest.raises(CorpusError, match=message) as caught:
        corpus.read(path)
    assert str(caught.value).startswith(f"{path}:3: ")


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
    """A value is marked where its words first stand whole; the longer of two wins; other attributes are left out."""
    title = "Redskin Red Wing red, dark red boots 2-pack"
    scores = {
        "Color": {"red": 1, "dark red": 1},
        "Brand": {"Red Wing": 1},
        "Boot shaft": {"2": 1},
        "Pack size": {"9": 1},
    }
    (item,) = corpus.read_target_scores(file({"input": title, "target_scores": scores}), OA_MINE)
    assert item.partial
    marked = [(title[span.start : span.end], span.tag, span.start) for span in item.spans]
    assert marked == [("Red Wing", "brand", 8), ("red", "color", 17), ("dark red", "color", 22)]


@pytest.mark.parametrize(
    "row", [{"input": "x"}, {"input": "x", "target_scores": 3}, {"input": "x", "target_scores": {"Brand": 3}}]
)
def test_bad_target_scores_are_named(row: object, file: Callable[..., Path]) -> None:
    """As any other bad line."""
    path = file(row)
    with pytest.raises(CorpusError, match=f"{path}:1: "):
        corpus.read_target_scores(path, OA_MINE)


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


def test_no_held_out_listing_is_trained_on() -> None:
    """Neither title nor description nor a product of the same brand and model occurs in the training files."""
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
    assert {item.listing.product_id for item in held_out} & {item.listing.product_id for item in trained} == set()


def test_the_digest_is_of_the_files_bytes(file: Callable[..., Path]) -> None:
    """One character more makes another digest."""
    before = corpus.digest([file(ROW)])
    assert before == corpus.digest([file(ROW)])
    assert before != corpus.digest([file(ROW, "")])
