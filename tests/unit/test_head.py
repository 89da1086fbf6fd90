import torch
from hypothesis import given
from hypothesis import strategies as st

from taggen.head import NO_TAG, Span, begin_label, label_count, reading, spans
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
    read = reading(probabilities, torch.zeros(1, 0))
    assert read.tags.tolist() == [[1, 2, NO_TAG]]
    assert read.begins.tolist()[0][:2] == [False, True]
    torch.testing.assert_close(read.confidences, torch.tensor([[0.64, 0.7, 0.9]]))
    assert begin_label(2) == 3


@given(st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40), st.integers(1, 9))
def test_labels_are_read_each_by_itself(logits: list[float], rows: int) -> None:
    """With the same bits in each row of a batch."""
    labels = reading(torch.ones(rows, 3, 1), torch.tensor(logits).repeat(rows, 1)).labels
    assert labels.shape == (rows, len(logits))
    assert (labels == labels[0]).all()
    torch.testing.assert_close(labels[0], torch.tensor(logits).sigmoid())


def test_a_head_without_tags_reads_labels() -> None:
    """Every token is of no tag."""
    read = reading(torch.ones(2, 3, 1), torch.zeros(2, 4))
    assert read.tags.tolist() == [[NO_TAG] * 3] * 2
    assert read.labels.tolist() == [[0.5] * 4] * 2


@given(st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5))
def test_confidences_are_probabilities(scores: list[float]) -> None:
    """Rounding never makes 1 of them, which is the threshold that nothing reaches."""
    read = reading(torch.tensor([[scores]]).softmax(-1), torch.tensor([scores]))
    assert 0 <= read.confidences.item() < 1
    assert ((read.labels >= 0) & (read.labels < 1)).all()
