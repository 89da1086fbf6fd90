import torch
from hypothesis import given
from hypothesis import strategies as st

from taggen.head import NO_TAG, Span, begin_label, head_width, label_count, read, spans
from taggen.windows import BLANK, NO_FIELD


def spans_of(text: str, sources: list[int] | None = None) -> list[tuple[int, int, int]]:
    """(tag, first, last) of the spans of such a text: "B1 I1 O B2"."""
    labels = text.split()
    tags = [0 if label == "O" else int(label[1:]) for label in labels]
    begins = [label[0] == "B" for label in labels]
    found = spans(tags, begins, [0.5] * len(tags), sources or [0] * len(tags))
    return [(span.tag, span.first, span.last) for span in found]


def test_tokens_join_into_spans() -> None:
    """A span begins with a B, or with an I that follows nothing of its tag, and ends before the next."""
    assert spans_of("B1 I1 O B2 B2 I2 I1 O I3 I3") == [(1, 0, 2), (2, 3, 4), (2, 4, 6), (1, 6, 7), (3, 8, 10)]
    assert spans_of("O O") == []
    assert spans_of("") == []


def test_no_span_crosses_fields() -> None:
    """Another field or a separator ends a span; what stands on a separator is no tag."""
    assert spans_of("I1 I1 I1 I1", [0, 0, NO_FIELD, 1]) == [(1, 0, 2), (1, 3, 4)]
    assert spans_of("I1 I1", [0, 1]) == [(1, 0, 1), (1, 1, 2)]


def test_blanks_do_not_part_a_span() -> None:
    """A blank that is a token of its own is passed over, whatever the head says of it, and never at an edge."""
    blanks = [BLANK, 0, BLANK, 0, BLANK, 0]
    assert spans_of("B1 B1 O I1 B2 O", blanks) == [(1, 1, 4)]
    assert spans_of("O B1 B2 B1 O I1", blanks) == [(1, 1, 2), (1, 3, 6)]


def test_a_spans_confidence_is_the_mean_of_its_tokens() -> None:
    """Blanks inside do not count."""
    assert spans([1, 1, 1], [True, False, False], [0.9, 0.1, 0.7], [0, BLANK, 0]) == [Span(1, 0, 3, 0.8)]


def test_reading_takes_a_tags_two_labels_together() -> None:
    """A tag whose labels share its probability beats a single label that is a little more probable than each."""
    assert label_count(2) == 5
    probabilities = torch.tensor([[[0.36, 0.30, 0.34, 0.0, 0.0], [0.1, 0.1, 0.1, 0.5, 0.2], [0.9, 0.1, 0, 0, 0]]])
    reading = read(probabilities.log(), 2)
    assert reading.tags.tolist() == [[1, 2, NO_TAG]]
    assert reading.begins.tolist()[0][:2] == [False, True]
    torch.testing.assert_close(reading.confidences, torch.tensor([[0.64, 0.7, 0.9]]))
    assert begin_label(2) == 3


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40), st.integers(1, 9))
def test_labels_are_read_at_the_start_token(logits: list[float], rows: int) -> None:
    """Each by itself, from the outputs behind the tags' own, with the same bits in each row of a batch."""
    scores = torch.zeros(rows, 3, head_width(2, len(logits)))
    scores[..., 0] = 5.0
    scores[:, 0, label_count(2) :] = torch.tensor(logits)
    scores[:, 1:, label_count(2) :] = 99.0  # no other token has a say
    labels = read(scores, 2).labels
    assert labels.shape == (rows, len(logits))
    assert (labels == labels[0]).all()
    torch.testing.assert_close(labels[0], torch.tensor(logits).sigmoid())
    assert read(scores, 2).tags.unique().tolist() == [NO_TAG]


def test_a_head_without_tags_reads_labels() -> None:
    """Every token is of no tag."""
    reading = read(torch.zeros(2, 3, head_width(0, 4)), 0)
    assert reading.tags.tolist() == [[NO_TAG] * 3] * 2
    assert reading.labels.tolist() == [[0.5] * 4] * 2


@given(st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5))
def test_confidences_are_probabilities(scores: list[float]) -> None:
    """Rounding never makes more than 1 of them."""
    assert 0 <= read(torch.tensor([[scores]]), 2).confidences.item() <= 1
