from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taggen import thresholds
from taggen.calibration import Outcome

TAGS = ("color", "size", "style")
OUTCOMES = st.lists(st.builds(Outcome, st.sampled_from(TAGS), st.floats(0, 0.99), st.booleans()), max_size=60)


def outcomes(tag: str, right: list[float], wrong: list[float]) -> list[Outcome]:
    """Judged mentions of one tag by their confidences."""
    return [
        Outcome(tag, confidence, rightly) for rightly, some in ((True, right), (False, wrong)) for confidence in some
    ]


def marks(judged: list[Outcome], missed: int = 0) -> dict[str, int]:
    """As many marks of each tag as are found rightly, and some that are not found at all."""
    right = Counter(outcome.tag for outcome in judged if outcome.right)
    return {tag: right[tag] + missed for tag in TAGS}


def f1(judged: list[Outcome], marked: dict[str, int], at: dict[str, float]) -> dict[str, float]:
    """F1 by tag at some thresholds."""
    found, right = thresholds.kept(judged, at)
    return {tag: 2 * right[tag] / max(1, marked[tag] + found[tag]) for tag in TAGS}


def test_a_threshold_lies_between_right_and_wrong() -> None:
    """In the middle where nothing lies between; each tag has its own."""
    judged = outcomes("color", [0.9, 0.8], [0.6, 0.5]) + outcomes("size", [0.5, 0.4], [0.3, 0.2])
    tuned = thresholds.tune(judged, marks(judged), prior=0)
    assert tuned["color"] == pytest.approx(0.7, abs=0.02)
    assert tuned["size"] == pytest.approx(0.35, abs=0.02)


def test_a_tag_without_examples_has_the_threshold_of_all() -> None:
    """Which is the best one for all together; without any example it is a half."""
    judged = outcomes("color", [0.8] * 30, [0.6] * 30)
    tuned = thresholds.tune(judged, {"color": 30, "style": 0})
    assert 0.6 < tuned["style"] <= 0.8
    assert thresholds.tune([], {"color": 0}) == thresholds.tune([], {"color": 3}) == {"color": 0.5}


def test_few_examples_do_not_go_their_own_way_and_many_do() -> None:
    """One right mention of low confidence among others' wrong ones there does not lower the threshold; forty do."""
    usual = outcomes("color", [0.9] * 200, [0.4] * 100)
    for count, low in ((1, False), (40, True)):
        judged = usual + outcomes("size", [0.3] * count, [])
        tuned = thresholds.tune(judged, marks(judged))
        assert tuned["color"] > 0.4
        assert (tuned["size"] <= 0.3) is low


@given(OUTCOMES, st.integers(0, 5))
def test_tuning_never_costs_f1_where_it_was_tuned(judged: list[Outcome], missed: int) -> None:
    """Without a prior, no threshold on the grid beats the tuned one."""
    marked = marks(judged, missed)
    best = f1(judged, marked, thresholds.tune(judged, marked, prior=0))
    for step in range(0, 101, 5):
        plain = f1(judged, marked, dict.fromkeys(TAGS, step / 100))
        assert all(best[tag] >= plain[tag] - 1e-9 for tag in TAGS)


@given(OUTCOMES, st.floats(0.01, 1), st.integers(0, 50))
def test_a_target_of_precision_is_met(judged: list[Outcome], precision: float, prior: int) -> None:
    """By each tag, whatever the others do."""
    tuned = thresholds.tune(judged, marks(judged), precision, prior)
    found, right = thresholds.kept(judged, tuned)
    assert all(right[tag] >= precision * found[tag] - 1e-9 for tag in TAGS)
    assert all(0 <= threshold <= 1 for threshold in tuned.values())


def test_a_target_costs_no_more_recall_than_it_must() -> None:
    """The lowest threshold that reaches it is taken."""
    judged = outcomes("color", [0.95] * 60 + [0.8] * 30 + [0.6] * 10, [0.7] * 9 + [0.5] * 40)
    marked = {"color": 100}
    found, right = thresholds.kept(judged, thresholds.tune(judged, marked, 0.9))
    assert (found["color"], right["color"]) == (109, 100)
    found, right = thresholds.kept(judged, thresholds.tune(judged, marked, 0.95))
    assert (found["color"], right["color"]) == (90, 90)


def test_what_cannot_reach_the_target_is_off() -> None:
    """Its threshold is 1."""
    assert thresholds.tune(outcomes("color", [0.5], [0.9] * 9), {"color": 1}, 0.9) == {"color": 1.0}
