"""How an adapter does on OA-Mine or AE-110K, scored as in the ExtractGPT paper (Brinkmann et al. 2023).

Both are JSON lines of {"input": title, "category": ..., "target_scores": {attribute: {value: 1}}}. An adapter trained
on the data's own attribute names says one value for each attribute: the wording of its most probable mention in the
title, or what the adapter's rules.json has for that wording. A value counts if it is the marked one to the letter.

published   micro F1 over the attributes that the listing's labels list: the paper's figure
strict      over all attributes of the listing's category: an invented value costs precision too
unseen      recall (published) over values that no training listing has under that attribute

The 95 % intervals are a bootstrap over listings. With --against, another file of predictions is scored beside and the
difference gets a paired interval.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from report import show

from taggen import corpus, evaluate, tagger
from taggen.adapter import RULES
from taggen.base import Quantization

SAMPLES = 1_000  # of a bootstrap
# Asked for one value of an attribute, an adapter is best from here on: over a half the published figure gains 1.1 on
# OA-Mine's held-out training titles and 2.3 on AE-110k's, and the strict one stays (docs/quality.md).
ONE_VALUE = 0.2

Row = Mapping[str, Any]
Values = Mapping[str, str]  # attribute → predicted value


class Counts(NamedTuple):
    """Of one listing: values marked, predicted and right."""

    marked: int
    predicted: int
    right: int


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def predict(
    adapter: Path, test: Path, base_model: str, quantization: Quantization, threshold: float
) -> list[dict[str, str]]:
    """One value for each attribute that the adapter finds more probable than the threshold, for each listing."""
    labelled, _ = corpus.read_any(test)
    rules = adapter / RULES
    forms = {
        (name, wording): form
        for name, rule in (json.loads(rules.read_bytes()) if rules.exists() else {}).items()
        for form, wordings in rule.get("synonyms", {}).items()
        for wording in wordings
    }
    outputs = evaluate.read_all(tagger.load(base_model, adapter, quantization), labelled, least=threshold)
    predictions = []
    for item, output in zip(labelled, outputs, strict=True):
        values: dict[str, str] = {}
        for mention in sorted(output.mentions, key=output.mentions.__getitem__):  # the most probable one last
            wording = item.text(mention.field)[mention.start : mention.end]
            values[mention.tag] = forms.get((mention.tag, wording), wording)
        predictions.append(values)
    return predictions


def marked(row: Row, attribute: str) -> set[str]:
    """The values that the labels give an attribute."""
    return {value.strip() for value in row["target_scores"].get(attribute, {}) if value != "n/a"}


def count(rows: Sequence[Row], predictions: Sequence[Values], asked: Callable[[Row], Iterable[str]]) -> list[Counts]:
    """Counts of each listing over the attributes that are asked of it."""
    counts = []
    for row, values in zip(rows, predictions, strict=True):
        attributes = list(asked(row))
        counts.append(
            Counts(
                sum(bool(marked(row, attribute)) for attribute in attributes),
                sum(attribute in values for attribute in attributes),
                sum(values.get(attribute) in marked(row, attribute) for attribute in attributes),
            )
        )
    return counts


def f1(counts: Iterable[Counts]) -> float:
    """Micro F1, in percent."""
    rows = list(counts)
    right = sum(row.right for row in rows)
    total = sum(row.marked + row.predicted for row in rows)
    return 200 * right / total if total else 0.0


def interval(figure: Callable[[Sequence[int]], float], listings: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of a figure of a list of listings (by number)."""
    random_ = random.Random(0)  # noqa: S311  variation, not secrets
    drawn = sorted(figure(random_.choices(range(listings), k=listings)) for _ in range(SAMPLES))
    return drawn[round(0.025 * SAMPLES)], drawn[round(0.975 * SAMPLES) - 1]


def main(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder, trained on the data's own attribute names.")],
    test: Annotated[Path, typer.Argument(help="Labelled listings to score on.")],
    train: Annotated[Path | None, typer.Option(help="What it was trained on: for recall on unseen values.")] = None,
    base_model: Annotated[str, typer.Option(help="embedded, a Hugging Face id or a local folder.")] = "embedded",
    quantization: Annotated[str, typer.Option(help="int8 or none.")] = "int8",
    threshold: Annotated[float, typer.Option(min=0.0, max=1.0, help="Say values more probable than this.")] = ONE_VALUE,
    predictions: Annotated[Path | None, typer.Option(help="Write the predictions into this file.")] = None,
    against: Annotated[Path | None, typer.Option(help="Predictions of another model, {tags: ...} a line.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Score an adapter on OA-Mine or AE-110K."""
    torch.set_num_threads(2)
    rows = read(test)
    values = predict(adapter, test, base_model, "int8" if quantization == "int8" else "none", threshold)
    if predictions is not None:
        lines = (json.dumps({"tags": one}, ensure_ascii=False) + "\n" for one in values)
        predictions.write_text("".join(lines), encoding="utf-8")
    known: dict[str, set[str]] = defaultdict(set)
    learnt = read(train) if train is not None else []
    for row in [*learnt, *rows]:
        known[row["category"]] |= set(row["target_scores"])
    asked: dict[str, Callable[[Row], Iterable[str]]] = {
        "published": lambda row: row["target_scores"],
        "strict": lambda row: known[row["category"]],
    }
    result: dict[str, Any] = {
        "adapter": adapter.name,
        "data": test.parent.name,
        "quantization": quantization,
        "threshold": threshold,
    }
    others = [row["tags"] for row in read(against)] if against is not None else None
    for name, attributes in asked.items():
        counts = count(rows, values, attributes)
        result[name] = round(f1(counts), 2)
        result[f"{name}_interval"] = interval(lambda chosen, its=counts: f1(its[i] for i in chosen), len(rows))
        if others is not None:
            theirs = count(rows, others, attributes)
            result[f"{name}_other"] = round(f1(theirs), 2)
            result[f"{name}_difference_interval"] = interval(
                lambda chosen, a=counts, b=theirs: f1(a[i] for i in chosen) - f1(b[i] for i in chosen), len(rows)
            )
    if learnt:
        seen = {(name, value) for row in learnt for name in row["target_scores"] for value in marked(row, name)}
        new = [
            values[index].get(name) == value
            for index, row in enumerate(rows)
            for name in row["target_scores"]
            for value in marked(row, name)
            if (name, value) not in seen
        ]
        result["unseen"] = round(100 * sum(new) / len(new), 2)
        result["unseen_values"] = len(new)
    if as_json:
        print(json.dumps(result))
        return
    shown = [(name, _text(value)) for name, value in result.items()]
    show("ExtractGPT's scores", ("what", "figure"), shown)


def _text(value: object) -> str:
    return f"{value[0]:.2f} to {value[1]:.2f}" if isinstance(value, tuple) else str(value)


if __name__ == "__main__":
    typer.run(main)
