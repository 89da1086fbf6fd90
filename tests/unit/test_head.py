from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taggen.head import READ, Span, TokenTag, begin_label, label_count, reading, spans
from taggen.windows import BLANK, NO_FIELD


def spans_of(text: str, sources: list[int] | None = None) -> list[tuple[int, int, int]]:
    """(tag, first, last) of the spans of such a text: "B1 I1 O B2", where a token of two tags is B1+B2. The head is
    nearly sure of it."""
    sources = sources or [0] * len(text.split())
    labels = [set(label.split("+")) - {"O"} for label in text.split()]
    real = [at for at, source in enumerate(sources) if source >= 0]
    behind = {at: after for at, after in pairwise(real) if sources[at] == sources[after]}
    tags = [
        TokenTag(
            at,
            int(one[1:]),
            0.9 * (one[0] == "B"),
            0.9 * (one[0] == "I"),
            0.9 * (at not in behind or f"I{one[1:]}" not in labels[behind[at]]),
        )
        for at, its in enumerate(labels)
        for one in sorted(its)
    ]
    return [(span.tag, span.first, span.last) for span in spans(tags, sources)]


def test_tokens_join_into_spans() -> None:
    """A span begins with a B, and ends before what does not go on with it."""
    assert spans_of("B1 I1 O B2 B2 I2 B1 O B3 I3") == [(1, 0, 2), (2, 3, 4), (2, 4, 6), (1, 6, 7), (3, 8, 10)]
    assert spans_of("O O") == []
    assert spans_of("") == []


def test_spans_of_several_tags_share_tokens() -> None:
    """One may hold another, or begin where another goes on."""
    assert spans_of("B1+B2 I1 I1+B3 I1+I3 I3") == [(1, 0, 4), (2, 0, 1), (3, 2, 5)]


def test_no_span_crosses_fields() -> None:
    """Another field or a separator ends a span."""
    assert spans_of("B1 I1 O B1", [0, 0, NO_FIELD, 1]) == [(1, 0, 2), (1, 3, 4)]
    assert spans_of("B1 B1", [0, 1]) == [(1, 0, 1), (1, 1, 2)]


def test_blanks_do_not_part_a_span() -> None:
    """A blank that is a token of its own is passed over, and never at an edge."""
    blanks = [BLANK, 0, BLANK, 0, BLANK, 0]
    assert spans_of("O B1 O I1 O O", blanks) == [(1, 1, 4)]
    assert spans_of("O B1 O B1 O I1", blanks) == [(1, 1, 2), (1, 3, 6)]


def test_of_spans_that_share_tokens_the_most_probable_is_read() -> None:
    """Each token of *Green Tea Bags* carries the tag more probably than not, but that it ends with *Tea* is the most
    probable; with all three a little less so, nothing is probable enough."""
    green, tea = TokenTag(0, 1, 1.0, 0.0, 0.0), TokenTag(1, 1, 0.0, 1.0, 0.47)
    assert spans([green, tea, TokenTag(2, 1, 0.0, 0.53, 0.53)], [0] * 3) == [Span(1, 0, 3, pytest.approx(0.53))]
    tea = tea._replace(ends=0.45)
    assert spans([green, tea, TokenTag(2, 1, 0.0, 0.55, 0.43)], [0] * 4) == [Span(1, 0, 2, pytest.approx(0.45))]
    tea = tea._replace(ends=0.35)
    tags = [green, tea, TokenTag(2, 1, 0.0, 0.65, 0.33)]
    assert spans(tags, [0] * 4) == []
    assert spans(tags, [0] * 4, least=0.3) == [Span(1, 0, 2, pytest.approx(0.35))]


def test_reading_takes_a_tags_two_labels_together() -> None:
    """Whether it begins or goes on, and of several tags each that is probable enough."""
    assert label_count(2) == 5
    assert begin_label(2) == 3
    posteriors = torch.tensor(
        [
            [
                [[0.25, 0.5, 0.5], [0.0, 0.0, 0.0]],
                [[0.0, 0.375, 0.125], [0.625, 0.25, 0.0]],
                [[0.75, 0.0, 0.75], [0.125, 0.75, 0.5]],
            ]
        ]
    )
    (tags,) = reading(posteriors, torch.zeros(1, 0)).tags
    assert tags == [
        TokenTag(0, 1, 0.25, 0.5, 0.5),
        TokenTag(1, 2, 0.625, 0.25, 0.0),
        TokenTag(2, 1, 0.75, 0.0, 0.75),
        TokenTag(2, 2, 0.125, 0.75, 0.5),
    ]
    (tags,) = reading(posteriors, torch.zeros(1, 0), least=0.3).tags
    assert tags[1] == TokenTag(1, 1, 0.0, 0.375, 0.125)


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40), st.integers(1, 9))
def test_labels_are_read_each_by_itself(logits: list[float], rows: int) -> None:
    """With the same bits in each row of a batch."""
    labels = reading(torch.zeros(rows, 3, 0, 3), torch.tensor(logits).repeat(rows, 1)).labels
    assert labels.shape == (rows, len(logits))
    assert (labels == labels[0]).all()
    torch.testing.assert_close(labels[0], torch.tensor(logits).sigmoid())


def test_a_head_without_tags_reads_labels() -> None:
    """No token carries any."""
    read = reading(torch.zeros(2, 3, 0, 3), torch.zeros(2, 4))
    assert read.tags == [[], []]
    assert read.labels.tolist() == [[0.5] * 4] * 2


@given(st.floats(0, 1, width=32), st.floats(-30, 30, width=32))
def test_confidences_are_probabilities(begins: float, logit: float) -> None:
    """Rounding never makes 1 of them, which is the threshold that nothing reaches."""
    read = reading(torch.tensor([[[[begins, 1 - begins, 1.0], [1.0, 0.0, 1.0]]]]), torch.tensor([[logit]]))
    found = spans(read.tags[0], [0])
    assert found[-1].tag == 2  # the certain one is read, and so is the other where it is probable enough
    assert len(found) == 1 + bool(torch.tensor(begins) > READ)  # in float32, as it is read
    assert all(READ < span.confidence < 1 for span in found)
    assert ((read.labels >= 0) & (read.labels < 1)).all()
