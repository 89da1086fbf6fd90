"""How many labelled listings a new category needs: F1 after training on 10, 30, 100, 300 of them.

The data are OA-Mine's train.jsonl and test.jsonl. Some categories play a merchant that nobody has seen: first an
adapter is trained on all the others (or --init names one), then, for each size, one adapter that goes on from it and
one from scratch, each on the same listings, drawn with the seed. All are scored on the new categories' test listings by
`taggen evaluate` (exact mentions, micro F1, int8). Every step is a `taggen` command, shown with --verbose.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from report import Figure, Neighbours, describe, machine, print_json, show

STEPS = 200  # of training, at least: ten listings need many epochs
BATCH = 16


def taggen(*arguments: object, verbose: bool) -> str:
    """Run a command of taggen; returns what it prints."""
    command = [str(argument) for argument in arguments]
    if verbose:
        print("taggen", *command, file=sys.stderr)
    code = "from taggen.cli import app; app()"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2_000:])
    return done.stdout


def main(
    train: Annotated[Path, typer.Argument(help="OA-Mine's train.jsonl.")],
    test: Annotated[Path, typer.Argument(help="OA-Mine's test.jsonl.")],
    category: Annotated[list[str], typer.Option(help="A category of the new merchant's; may be repeated.")],
    sizes: Annotated[str, typer.Option(help="Listings to train on, separated by commas.")] = "10,30,100,300",
    init: Annotated[Path | None, typer.Option(help="Adapter to go on from, instead of training one.")] = None,
    init_epochs: Annotated[int, typer.Option(help="Of training on the other categories.")] = 14,
    seeds: Annotated[int, typer.Option(help="Draws of listings for each size.")] = 1,
    threads: int = 2,
    verbose: bool = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Train on more and more listings of a new category, and score each time."""
    neighbours = Neighbours()
    lines = [line for line in train.read_text(encoding="utf-8").split("\n") if line.strip()]
    theirs = [line for line in lines if json.loads(line)["category"] in category]
    others = [line for line in lines if json.loads(line)["category"] not in category]
    tested = [
        line
        for line in test.read_text(encoding="utf-8").split("\n")
        if line and json.loads(line)["category"] in category
    ]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "test.jsonl").write_text("\n".join(tested), encoding="utf-8")
        if init is None:
            (root / "others.jsonl").write_text("\n".join(others), encoding="utf-8")
            init = root / "others"
            options = ("--epochs", init_epochs, "--dev-share", 0, "--threads", threads)
            taggen("train", root / "others.jsonl", "--out", init, *options, verbose=verbose)

        def score(adapter: Path) -> float:
            card = json.loads(
                taggen("evaluate", adapter, root / "test.jsonl", "--json", "--threads", threads, verbose=verbose)
            )
            return float(card["exact"]["micro"]["f1"])

        before = score(init)
        for size in sorted({min(int(size), len(theirs)) for size in sizes.split(",")}):
            epochs = max(14, -(-STEPS // -(-size // BATCH)))
            figures: dict[str, list[float]] = {"continued": [], "scratch": []}
            seconds = []
            for seed in range(seeds):
                random_ = random.Random(seed)  # noqa: S311  variation, not secrets
                data = root / f"{size}-{seed}.jsonl"
                data.write_text("\n".join(random_.sample(theirs, size)), encoding="utf-8")
                for kind, extra in (("continued", ("--init", init)), ("scratch", ())):
                    out = root / f"{kind}-{size}-{seed}"
                    options = ("--epochs", epochs, "--dev-share", 0, "--seed", seed, "--threads", threads, *extra)
                    started = time.monotonic()
                    taggen("train", data, "--out", out, *options, verbose=verbose)
                    seconds.append(time.monotonic() - started)
                    figures[kind].append(score(out))
            results.append(
                {"listings": size, "epochs": epochs}
                | {kind: Figure.of(values) for kind, values in figures.items()}
                | {"training_s": Figure.of(seconds)}
            )
            print(f"{size} listings: {figures}", file=sys.stderr)
    content = {"categories": category, "tested": len(tested), "before": before, "curve": results}
    content["machine"] = machine(neighbours)
    if as_json:
        print_json(content)
        return
    rows = [(one["listings"], one["epochs"], one["continued"], one["scratch"], one["training_s"]) for one in results]
    show(
        f"F1 on {len(tested)} listings of {', '.join(category)}",
        ("listings", "epochs", "continued", "from scratch", "training, s"),
        rows,
        {"before training": f"{before:.1f}", "machine": describe(content["machine"])},
    )


if __name__ == "__main__":
    typer.run(main)
