import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggen import corpus
from taggen.corpus import Labelled, offsets
from taggen.listing import Listing

TITLES = [Labelled(Listing("m", str(number), 1, f"shoe {number % 40}"), ()) for number in range(50)]


@given(st.floats(0.01, 0.99), st.integers(0, 5))
def test_listings_of_one_title_stay_together(share: float, seed: int) -> None:
    """Nothing is lost, each part keeps the order, and the same seed divides in the same way."""
    kept, held_out = corpus.split(TITLES, share, seed)
    assert sorted(kept + held_out, key=TITLES.index) == TITLES
    assert kept == sorted(kept, key=TITLES.index)
    assert not {item.listing.title for item in kept} & {item.listing.title for item in held_out}
    assert len({item.listing.title for item in held_out}) == min(max(round(share * 40), 1), 39)
    assert (kept, held_out) == corpus.split(TITLES, share, seed)


def test_another_seed_divides_otherwise() -> None:
    """And a share of nothing holds nothing out, nor does a single listing part."""
    assert corpus.split(TITLES, 0.2, 0) != corpus.split(TITLES, 0.2, 1)
    assert corpus.split(TITLES, 0) == (TITLES, [])
    assert corpus.split(TITLES[:1], 0.5) == (TITLES[:1], [])


@pytest.mark.parametrize("partial", [False, True])
def test_what_is_written_as_offsets_is_read_again(partial: bool, tmp_path: Path) -> None:
    """Fields, marks, labels, and whether other words may carry tags."""
    items = [replace(item, partial=partial, spans=sorted_spans(item)) for item in corpus.held_out()]
    path = tmp_path / "data.jsonl"
    lines = (json.dumps(offsets.row(item), ensure_ascii=False) + "\n" for item in items)
    path.write_text("".join(lines), encoding="utf-8")
    again, report = corpus.read_any(path)
    assert again == items
    assert report.findings == []


def sorted_spans(item: Labelled) -> tuple[corpus.Span, ...]:
    """The spans in the order that they are read in."""
    return tuple(sorted(item.spans, key=lambda span: (span.field, span.start)))
