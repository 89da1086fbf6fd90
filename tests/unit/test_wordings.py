"""What labelled data calls its words is learnt into an adapter's rules."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from taggen import corpus, wordings
from taggen.corpus import Report
from taggen.normalize import Rules

Learn = Callable[..., dict[str, dict[str, list[str]]]]


@pytest.fixture
def learn(tmp_path: Path) -> Learn:
    """Learns from titles, each with a value for the tag `Fabric Type`."""

    def read(
        *titles: tuple[str, str], tag: str = "Fabric Type", rules: Rules | None = None
    ) -> dict[str, dict[str, list[str]]]:
        rows = [{"input": title, "target_scores": {tag: {value: 1}}} for title, value in titles]
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        report: Report = corpus.read_any(path)[1]
        return wordings.learn(report, rules or Rules())

    return read


def test_a_word_that_stands_for_a_value_is_learnt(learn: Learn) -> None:
    """Where the data's value is only the beginning of a word, twice or more."""
    assert learn(("red Jerseys", "Jersey"), ("Jerseys, blue", "Jersey")) == {"Fabric Type": {"Jersey": ["Jerseys"]}}
    assert learn(("red Jerseys", "Jersey")) == {}


def test_what_the_data_calls_by_two_names_is_what_most_say(learn: Learn) -> None:
    """A word that is as often its own value stays as it is."""
    beginning, own = ("red Jerseys", "Jersey"), ("red Jerseys", "Jerseys")
    assert learn(beginning, beginning, own) == {"Fabric Type": {"Jersey": ["Jerseys"]}}
    assert learn(beginning, beginning, own, own) == {}


def test_what_the_rules_know_already_is_not_learnt(learn: Learn) -> None:
    """Ours, or those of the adapter that is gone on from: two forms that stand for each other would not load."""
    rules = Rules(b'{"fabric_type": {"synonyms": {"jerseys": ["jersey"]}}}')
    twice = [("red Jerseys", "Jersey")] * 2
    assert learn(*twice, rules=rules) == {}


def test_what_is_learnt_is_added_to_the_rules_that_there_are() -> None:
    """Under the name that the tag has there; without anything to say there is no file."""
    learnt = {"Fabric Type": {"Jersey": ["Jerseys"]}}
    before = b'{"fabric_type": {"synonyms": {"Jersey": ["tricot"]}}, "volume": {"read": "quantity"}}'
    added = wordings.add(learnt, before)
    assert added is not None
    assert json.loads(added) == {
        "fabric_type": {"synonyms": {"Jersey": ["tricot", "Jerseys"]}},
        "volume": {"read": "quantity"},
    }
    rules = Rules(added)
    assert [rules.normalize("Fabric Type", value) for value in ("Jerseys", "TRICOT", "Lycra")] == [
        "jersey",
        "jersey",
        "lycra",
    ]
    assert wordings.add({}, None) is None
