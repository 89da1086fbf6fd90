"""What an adapter of its own gains a merchant over the default adapter: OA-Mine's categories play the merchants.

For each category and size an adapter goes on from the default one, on so many listings drawn with the seed, and is
compared with it on the category's test listings by `taggen evaluate --compare` (exact mentions, micro F1, int8).
Attributes that mean one of the default adapter's tags have its name, the others their own. The merchant asks for the
tags that its test listings have: what either adapter says under other names is left out of F1. The gate is that of
`streamer adapters publish`, which counts them.
"""

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from extractgpt import read
from learning_curve import BATCH, STEPS, taggen
from report import Neighbours, describe, machine, print_json, show

from taggen.compare import MARGIN
from taggen.corpus import OA_MINE


def renamed(row: Mapping[str, Any]) -> str:
    """The row as a line, under the default adapter's tag names where they mean the same."""
    scores: dict[str, dict[str, int]] = {}
    for name, values in row["target_scores"].items():
        scores.setdefault(OA_MINE.get(name, name), {}).update(values)
    return json.dumps({**row, "target_scores": scores}, ensure_ascii=False) + "\n"


def f1(scores: Mapping[str, Mapping[str, int]]) -> float:
    """Micro F1, in percent, over the tags that are marked anywhere."""
    asked = [its for name, its in scores.items() if name != "micro" and its["marked"]]
    return 200 * sum(its["right"] for its in asked) / sum(its["marked"] + its["found"] for its in asked)


def main(
    train: Annotated[Path, typer.Argument(help="OA-Mine's train.jsonl.")],
    test: Annotated[Path, typer.Argument(help="OA-Mine's test.jsonl.")],
    sizes: Annotated[str, typer.Option(help="Listings to train on, separated by commas.")] = "30,100",
    seed: int = 0,
    threads: int = 2,
    verbose: bool = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Train an adapter for each merchant, and compare it with the default one."""
    neighbours = Neighbours()
    taught, tested = read(train), read(test)
    wanted = [int(size) for size in sizes.split(",")]
    merchants: list[dict[str, Any]] = []
    for category in sorted({row["category"] for row in tested}):
        theirs = [renamed(row) for row in taught if row["category"] == category]
        lines = [renamed(row) for row in tested if row["category"] == category]
        merchant: dict[str, Any] = {"merchant": category, "tested": len(lines)}
        with tempfile.TemporaryDirectory() as folder:
            data, examples = Path(folder, "test.jsonl"), Path(folder, "train.jsonl")
            data.write_text("".join(lines), encoding="utf-8")

            def evaluate(adapter: object, *extra: object, its: Path = data) -> dict[str, Any]:
                said = taggen("evaluate", adapter, its, "--json", "--threads", threads, *extra, verbose=verbose)
                return dict(json.loads(said))

            merchant["default"] = f1(evaluate("default")["exact"])
            for size in wanted:
                chosen = random.Random(seed).sample(theirs, min(size, len(theirs)))  # noqa: S311
                examples.write_text("".join(chosen), encoding="utf-8")
                epochs = max(14, -(-STEPS // -(-len(chosen) // BATCH)))
                out = Path(folder, f"own-{size}")
                options = ("--epochs", epochs, "--dev-share", 0, "--seed", seed, "--threads", threads)
                taggen("train", examples, "--init", "default", "--out", out, *options, verbose=verbose)
                card = evaluate(out, "--compare", "default")
                own = f1(card["exact"])
                merchant[f"own_{size}"] = own
                merchant[f"gain_{size}"] = own - merchant["default"]
                overall = card["comparison"]["differences"]["micro"]
                merchant[f"refused_{size}"] = overall["high"] < 0 or overall["delta"] < -100 * MARGIN
        print(merchant, file=sys.stderr)
        merchants.append(merchant)
    medians = {f"gain_{size}": statistics.median(one[f"gain_{size}"] for one in merchants) for size in wanted}
    content = {"merchants": merchants, "median": medians, "machine": machine(neighbours)}
    if as_json:
        print_json(content)
        return
    rows = [
        (
            one["merchant"],
            one["tested"],
            f"{one['default']:.1f}",
            *(f"{one[f'own_{n}']:.1f} ({one[f'gain_{n}']:+.1f})" + " refused" * one[f"refused_{n}"] for n in wanted),
        )
        for one in merchants
    ]
    notes = {f"median gain with {size}": f"{medians[f'gain_{size}']:+.1f}" for size in wanted}
    show(
        "F1 of the default adapter and of a merchant's own",
        ("merchant", "tested", "default", *(f"own, {size} listings" for size in wanted)),
        rows,
        {**notes, "machine": describe(content["machine"])},
    )


if __name__ == "__main__":
    typer.run(main)
