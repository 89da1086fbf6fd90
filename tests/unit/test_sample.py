"""`streamer map check`: what a mapping makes of sample events."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from streamer.cli import app

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
EVENT = {"shop": "acme", "id": 1, "v": 3, "name": "Boots", "body": None}
MAPPING = {"merchant_id": "shop", "product_id": "id", "listing_version": "v", "title": "name", "description": "body"}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A mapping, and a file for a sample."""
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps(MAPPING))
    return mapping, tmp_path / "sample"


def check(mapping: Path, sample: Path, *options: str) -> Result:
    """Run the command."""
    return CliRunner(env={"COLUMNS": "150"}).invoke(app, ["map", "check", str(mapping), str(sample), *options])


@pytest.mark.parametrize(("mapping", "sample"), [("debezium.toml", "debezium.jsonl"), ("marketplace.json",) * 2])
def test_the_examples_pass(mapping: str, sample: str) -> None:
    """The commands of docs/mapping.md give a listing and a deletion each."""
    sample = sample if sample.endswith("l") else f"{sample}l"
    done = check(EXAMPLES / mapping, EXAMPLES / sample, "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0
    assert [(event["record"]["deleted"], event["problem"]) for event in events] == [(False, None), (True, None)]


def test_empty_fields_are_named(files: tuple[Path, Path]) -> None:
    """They do no harm while they are not required: exit code 0."""
    files[1].write_text(json.dumps(EVENT, indent=2))
    shown = check(*files)
    assert shown.exit_code == 0
    assert "a listing; empty: description" in shown.stdout
    assert {tuple(line.split()) for line in shown.stdout.splitlines()} > {
        ("title", "Boots", "name"),
        ("description", "empty", "body"),
    }
    [event] = [json.loads(line) for line in check(*files, "--json").stdout.splitlines()]
    assert event["empty"] == ["description"]
    assert event["record"]["title"] == "Boots"


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (EVENT | {"shop": None}, "unmapped: merchant_id: missing"),
        (EVENT | {"name": ["Boots"]}, "unmapped: title: a list, where text is needed"),
    ],
)
def test_a_dead_letter_fails_the_check(files: tuple[Path, Path], event: object, problem: str) -> None:
    """Exit code 1 when one of the events would be one, and its reason; the others are shown all the same."""
    files[1].write_text("\n".join(map(json.dumps, [event, EVENT])))
    shown = check(*files)
    assert shown.exit_code == 1
    assert f"dead letter: {problem}" in shown.stdout
    assert "a listing" in shown.stdout
    first, second = (json.loads(line) for line in check(*files, "--json").stdout.splitlines())
    assert (first["problem"], second["problem"]) == (problem, None)


@pytest.mark.parametrize("sample", ["Boots", '{"a": 1}\n[]', "\x00\x00\x00\x00\x07x"])
def test_what_is_no_event(files: tuple[Path, Path], sample: str) -> None:
    """Exit code 2 and one line with the place."""
    files[1].write_text(sample)
    done = check(*files)
    assert done.exit_code == 2
    assert f"streamer: {files[1]}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_files(files: tuple[Path, Path], tmp_path: Path) -> None:
    """A mapping or a sample that is not there: exit code 2."""
    assert check(tmp_path / "none.toml", files[1]).exit_code == 2
    assert "No such file" in check(*files).stderr
