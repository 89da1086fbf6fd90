from pathlib import Path

import pytest

from taggen import corpus
from taggen.errors import CorpusError

FORMS = {
    "marks": '{"id": "1", "merchant_id": "m", "title": "<brand>Nike</brand> shoe"}',
    "offsets": '{"title": "Nike shoe", "spans": [{"field": "title", "start": 0, "end": 4, "tag": "brand"}]}',
    "values": '{"input": "Nike shoe", "category": "Shoes", "target_scores": {"brand": {"Nike": 1}}}',
    "jd": "d1\t1\tNike shoe\t<brand>Nike</brand> shoe",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_told_by_its_looks(form: str, tmp_path: Path) -> None:
    """The same words are marked whatever form they came in."""
    path = tmp_path / "data"
    path.write_text(FORMS[form], encoding="utf-8")
    (item,), _ = corpus.read_any(path)
    (span,) = item.spans
    assert (item.text(span.field)[span.start : span.end], span.tag) == ("Nike", "brand")


@pytest.mark.parametrize(
    "line",
    [
        '{"title": "Nike", "spans": [{"field": "title", "start": 0, "end": 9, "tag": "brand"}]}',
        '{"id": "1", "merchant_id": "m", "title": "<brand>Nike shoe"}',
        "[1, 2]",
    ],
)
def test_bad_data_names_its_line(line: str, tmp_path: Path) -> None:
    """Offsets beyond the text, an open mark, no object: file and line."""
    path = tmp_path / "data"
    path.write_text(FORMS["marks"] + "\n" + line, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"data:2: "):
        corpus.read_any(path)


def test_a_value_in_two_places_is_reported(tmp_path: Path) -> None:
    """Where a value stands twice, or nowhere, the report says so."""
    path = tmp_path / "data"
    path.write_text(
        '{"input": "red shoe with red laces", "category": "s", "target_scores": {"color": {"red": 1, "blue": 1}}}',
        encoding="utf-8",
    )
    _, report = corpus.read_any(path)
    assert len(report.findings) == 2
