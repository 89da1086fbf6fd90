import pytest

from taggen.calibration import Outcome, calibration_error, precision_recall, reliability


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
