import pytest

from taggen.calibration import (
    Outcome,
    calibration_error,
    coverage,
    label_outcomes,
    precision_recall,
    reliability,
)
from taggen.corpus import Labelled
from taggen.evaluate import Output
from taggen.listing import Listing
from taggen.tag import Tagging


def test_the_calibration_error_is_the_weighted_gap() -> None:
    """By hand: two mentions at 0.95, one right, and two at 0.65, both right: (2 * 0.45 + 2 * 0.35) / 4."""
    judged = [Outcome("t", 0.95, True), Outcome("t", 0.95, False), Outcome("t", 0.65, True), Outcome("t", 0.65, True)]
    assert calibration_error(reliability(judged)) == pytest.approx(0.40)
    assert calibration_error([]) == 0.0


def test_precision_and_recall_go_from_the_highest_confidence_down() -> None:
    """One point a confidence; recall counts what is marked, found or not."""
    judged = [Outcome("t", 0.9, True), Outcome("t", 0.7, False), Outcome("t", 0.7, True)]
    points = [(point.confidence, point.precision, point.recall) for point in precision_recall(judged, 4)]
    assert points == [(0.9, 1.0, 0.25), (0.7, pytest.approx(2 / 3), 0.5)]


def test_labels_are_judged_where_something_is_known_of_their_name() -> None:
    """From a little probability on: what the head is sure is not there counts for nothing."""
    item = Labelled(Listing("m", "p", 1, "shoe"), (), labels={"use": ("home",), "kind": ()})
    read = {("use", "home"): 0.9, ("use", "work"): 0.3, ("use", "gift"): 0.05, ("kind", "x"): 0.2, ("other", "y"): 0.9}
    judged = label_outcomes([item], [Output(Tagging(()), {}, read)])
    assert judged == [Outcome("use", 0.9, True), Outcome("use", 0.3, False), Outcome("kind", 0.2, False)]


def test_coverage_is_the_recall_that_a_precision_leaves() -> None:
    """The best there is, also where precision falls below on the way; none if it is never reached."""
    judged = [Outcome("t", 0.9, True), Outcome("t", 0.8, False), *[Outcome("t", 0.7, True)] * 38]
    curve = precision_recall(judged, 78)
    assert coverage(curve, 0.97) == 0.5
    assert coverage(curve, 0.98) == 1 / 78
    assert coverage(precision_recall([Outcome("t", 0.9, False)], 1)) == coverage([]) == 0.0
