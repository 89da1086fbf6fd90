from pathlib import Path

import pytest

from taggen import corpus
from taggen.corpus import Labelled, Report
from taggen.errors import CorpusError


def read(path: Path, text: str) -> tuple[list[Labelled], Report]:
    """What a CSV file of this text says."""
    (path / "data.csv").write_text(text, encoding="utf-8", newline="")
    return corpus.read_any(path / "data.csv")


def marked(item: Labelled) -> set[tuple[str, str, str]]:
    """Field, words and tag of each mark."""
    return {(span.field, item.text(span.field)[span.start : span.end], span.tag) for span in item.spans}


def test_columns_become_a_listing_and_its_marks(tmp_path: Path) -> None:
    """Those named as fields are the listing, in any case; the others are tags, several values between bars."""
    (first, second), report = read(
        tmp_path,
        "\ufeffProduct_ID,Title,description,locale,category,attributes.Colour,brand,color ,labels.season\r\n"
        'a,Nike red shoe,"Soft, red and ""blue""",en,Shoes,Red,Nike,red|blue,summer | winter\r\n'
        ",防水夹克,,zh-CN,,,,,\r\n",
    )
    listing = first.listing
    assert (listing.product_id, listing.title, listing.locale, listing.category) == (
        "a",
        "Nike red shoe",
        "en",
        "Shoes",
    )
    assert listing.description == 'Soft, red and "blue"'
    assert listing.attributes == {"Colour": "Red"}
    assert marked(first) == {
        ("title", "Nike", "brand"),
        ("title", "red", "color"),
        ("description", "red", "color"),
        ("description", "blue", "color"),
        ("attributes.Colour", "Red", "color"),
    }
    assert first.labels == {"season": ("summer", "winter")}
    assert (second.listing.product_id, second.spans, second.labels) == ("3", (), {})
    assert not second.partial
    assert (report.listings, report.findings, report.marks["color"]) == (2, [], 4)


def test_values_without_one_exact_place_are_reported(tmp_path: Path) -> None:
    """With the line that the row begins on, also behind cells of several lines; what is in doubt is not hidden by what
    is found in another field."""
    (_, item), report = read(
        tmp_path,
        'title,description,material,color\nBoots,"one\ntwo\n",,\n'
        '"red shoe, red\nsole",Leathery WOOL,wool|leather|Leather|silk,red\n',
    )
    assert {(found.where.rpartition(":")[2], found.tag, found.value, found.doubt) for found in report.findings} == {
        ("5", "color", "red", "several places"),
        ("5", "material", "wool", "other case"),
        ("5", "material", "leather", "missing"),
        ("5", "material", "Leather", "inside a longer word"),
        ("5", "material", "silk", "missing"),
    }
    assert marked(item) == {
        ("title", "red", "color"),
        ("description", "WOOL", "material"),
        ("description", "Leathery", "material"),
    }


def test_a_table_without_tags_teaches_labels_alone(tmp_path: Path) -> None:
    """Nobody said which words are marked, so no word is taught to be none."""
    (item,), _ = read(tmp_path, "title,labels.category\nNike shoe,shoes\n")
    assert (item.partial, item.spans, item.labels) == (True, (), {"category": ("shoes",)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"data.csv:1: no column is named title"),
        ("id,brand\n1,Nike\n", r"data.csv:1: no column is named title"),
        ("title,\nNike,\n", r"data.csv:1: column 2 has no name"),
        ("title,brand,brand\nNike,Nike,\n", r"data.csv:1: two columns are named brand"),
        ("title,<b>\nNike,Nike\n", r"data.csv:2: tag name '<b>'"),
        ("title,brand\nNike,Nike\nNike\n", r"data.csv:3: 1 cells under a header of 2"),
        ('title,brand\n"a\nb",x\n"Nike" shoe,Nike\n', r"data.csv:4: ',' expected after '\"'"),
        ('title,brand\nNike,Nike\n"Nike,Nike\n\n', r"data.csv:3: unexpected end of data"),
        ("title,brand\nNike,Nike\n,Nike\n", r"data.csv:3: title: missing"),
        ("title,brand\n\n,\n", r"data.csv'?\)?\]?: no listings"),
    ],
)
def test_a_bad_table_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    """Header, quotes, cells and listings: file, line and reason."""
    with pytest.raises(CorpusError, match=message):
        read(tmp_path, text)


def test_a_table_must_be_utf_8(tmp_path: Path) -> None:
    """Excel's own encodings are named as what they are not; so is a file that is not there."""
    (tmp_path / "data.csv").write_bytes("title\nshoe\n防水鞋\n".encode("gbk"))
    with pytest.raises(CorpusError, match=r"data.csv:3: not UTF-8: invalid"):
        corpus.read_any(tmp_path / "data.csv")
    with pytest.raises(CorpusError, match="No such file"):
        corpus.read_any(tmp_path / "absent.csv")


def test_the_example_of_the_documentation_is_well_made() -> None:
    """Only what is meant to show a doubt is one, besides words that begin a sentence."""
    _, report = corpus.read_any(Path(__file__).parents[2] / "docs" / "examples" / "merchant.csv")
    assert report.listings == 60
    others = [(found.value, found.doubt) for found in report.findings if found.doubt != "other case"]
    assert others == [("waterproof", "several places"), ("dogs", "missing")]
