"""The table of tag events as text."""

import io

from rich.cells import cell_len
from rich.console import Console

from streamer.table import ADAPTER_WIDTH, GAP, LATENCY_WIDTH, TagTable
from streamer.tail import Sighting
from taggen.listing import Listing
from taggen.tag import Evidence, Tag
from tests.unit.test_tail import EVENT, LISTING


def table(width=120):
    """A table and where it prints to."""
    out = io.StringIO()
    return TagTable(Console(file=out, width=width)), out


def sighting(title, tags, **changes):
    """A listing of this title and an event with these tags, 1,234 ms later."""
    listing = Listing("acme", "1", 1, title)
    return Sighting(EVENT._replace(tags=tags, **changes), listing, 1234)


def tag(title, words, name="brand"):
    """A tag that these words of the title carry."""
    start = title.index(words)
    return Tag(name, words, words.lower(), 0.987, "attribute", (Evidence("title", start, start + len(words)),))


def test_row():
    """A row shows product, title, tags with words and confidence, adapter and version, and the latency."""
    rows, out = table()
    rows.add(Sighting(EVENT, LISTING, 412))
    head, first, second = out.getvalue().splitlines()
    assert [cell.strip() for cell in head.split("  ") if cell.strip()] == [
        "Product",
        'Tags: name=value "words of the listing" confidence',
        "Adapter",
        "Latency",
    ]
    assert first.split("  ")[0] == "acme/1"
    assert 'color=grey "Grey" "grey" 0.90' in first
    assert first.split()[-4:] == ["fake", "1", "412", "ms"]
    assert second.startswith("Grey 👟 shoe")


def test_a_label_of_the_listing_has_no_words():
    """It shows its value and confidence alone."""
    rows, out = table()
    rows.add(sighting("red shoe", (Tag("use", "home", "home", 0.91, "occasion", ()),)))
    assert "use=home 0.91" in out.getvalue()


def test_columns_align_whatever_the_script():
    """Adapter and latency stand in the same cell of the screen beside Chinese and beside English text."""
    rows, out = table()
    for title in ("Nike Air Force 1 Low 07 男子运动鞋 皮革材质耐磨防水", "Nike running shoes", "运动鞋"):
        words = title.split()[-1]
        rows.add(sighting(title, (tag(title, words),)))
    lines = [line for line in out.getvalue().splitlines() if "1234 ms" in line]
    assert len(lines) == 3
    assert {cell_len(line[: line.index("fake 1")]) for line in lines} == {120 - ADAPTER_WIDTH - LATENCY_WIDTH - GAP}
    assert {cell_len(line) for line in out.getvalue().splitlines()} == {120}


def test_tags_stay_whole():
    """Lines break between tags, not within one, when there are more than fit."""
    rows, out = table(80)
    title = "red green blue black white"
    rows.add(sighting(title, tuple(tag(title, word, "color") for word in title.split())))
    for word in title.split():
        assert f'color={word} "{word}" 0.99' in out.getvalue()


def test_terminal_control_is_taken_out():
    """A listing cannot steer the terminal: neither escape sequences nor line breaks come through."""
    rows, out = table()
    title = "Nike\x1b[31m\x9b2J\r\nshoe"
    rows.add(sighting(title, (tag(title, "\x1b[31m\x9b2J\r\nshoe"),)))
    assert not {"\x1b", "\x9b", "\r"} & set(out.getvalue())
    assert len(out.getvalue().splitlines()) == 3


def test_without_tags():
    """Deletions, events without tags and flags are told apart."""
    for changes, expected in (
        ({"deleted": True, "model": None}, "deleted"),
        ({}, "no tags"),
        ({"flags": ("stale_version",)}, "no tags  stale_version"),
    ):
        rows, out = table()
        rows.add(sighting("shoe", (), **changes))
        assert expected in out.getvalue()
