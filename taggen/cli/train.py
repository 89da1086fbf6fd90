"""`taggen train`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from taggen.cli.console import errors, one_line_errors, print_doubts, progress
from taggen.cli.options import BaseOption, Threads
from taggen.errors import TrainingError

if TYPE_CHECKING:
    from taggen.adapter import LabelType, TagType
    from taggen.calibrate import Calibration
    from taggen.corpus import Labelled, Report
    from taggen.scorecard import Scorecard
    from taggen.training import Epoch, Step


def train(
    out: Annotated[Path, typer.Option("--out", help="New folder for the adapter.")],
    data: Annotated[
        list[Path] | None, typer.Argument(help="Files of labelled listings; the package's if none.")
    ] = None,
    oa_mine: Annotated[Path | None, typer.Option(help="OA-Mine's train.jsonl, read besides.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Adapter folder, or `default`, to go on from: its rank, alpha and layers.")
    ] = None,
    name: Annotated[str, typer.Option(help="The adapter's name.")] = "default",
    version: Annotated[str, typer.Option(help="The adapter's version.")] = "1",
    merchant: Annotated[str, typer.Option(help="The merchant it is for, * for all.")] = "*",
    base_model: BaseOption = "embedded",
    dev_share: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Held out to choose the epoch and set thresholds; 0 trains on all.")
    ] = 0.1,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a better F1 before it stops, with 30 held out or more.")
    ] = 5,
    epochs: Annotated[int, typer.Option(min=1)] = 14,
    batch_size: Annotated[int, typer.Option(min=1, help="Listings of a step.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 1e-3,
    weight_decay: Annotated[float, typer.Option(min=0.0)] = 0.01,
    rank: Annotated[int | None, typer.Option(min=1, max=256, help="Of LoRA.", show_default="32")] = None,
    alpha: Annotated[int | None, typer.Option(min=1, help="Of LoRA.", show_default="2 x rank")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Names of linear layers, or their ends, by comma.", show_default="all")
    ] = None,
    dropout: Annotated[float, typer.Option(min=0.0, max=0.9, help="LoRA's own.")] = 0.0,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Of each tag on the held-out part, by its threshold.", show_default="best F1"
        ),
    ] = None,
    seed: int = 0,
    threads: Threads = 2,
) -> None:
    """Train a LoRA adapter with its head on labelled listings.

    The same command goes on after it was killed, from the last epoch's checkpoint in OUT.
    """
    if precision is not None and dev_share == 0:
        raise typer.BadParameter(
            "thresholds are tuned on the held-out part: --dev-share is 0", param_hint="--precision"
        )
    if init is not None and (rank, alpha, targets) != (None, None, None):
        raise typer.BadParameter("rank, alpha and targets are those of the adapter", param_hint="--init")
    import torch  # noqa: PLC0415  seconds to import; --help need not wait for it

    from taggen import adapter as adapters  # noqa: PLC0415
    from taggen import corpus, scorecard, tagger, trainable, training  # noqa: PLC0415
    from taggen.base import load_base  # noqa: PLC0415
    from taggen.calibrate import calibrate  # noqa: PLC0415
    from taggen.checkpoint import Checkpoint  # noqa: PLC0415
    from taggen.development import Development  # noqa: PLC0415

    torch.set_num_threads(threads)
    with one_line_errors():
        files = data or corpus.train_files()
        labelled, report = corpus.read_any(files)
        print_doubts(report)
        if oa_mine is not None:
            labelled += corpus.read_any(oa_mine, corpus.OA_MINE)[0]
            files = [*files, oa_mine]
        tags, labels = _types(labelled)
        taught, dev = corpus.split(labelled, dev_share, seed)
        settings = training.Settings(
            epochs=epochs,
            patience=patience,
            batch_listings=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            rank=rank or 32,
            alpha=alpha or 2 * (rank or 32),
            targets=tuple(targets.split(",")) if targets else (),
            dropout=dropout,
            seed=seed,
        )
        base = load_base(base_model)
        origin = tagger.default_adapter() if init == "default" else Path(init) if init else None
        before = None
        if origin is not None:
            before = adapters.read(origin)
            settings = training.continued(settings, before, base)
        checkpoint = Checkpoint(out, training.describe(base, taught, tags, settings, dev, before, labels))
        if checkpoint.load() is None and (out / adapters.CARD).exists():
            raise TrainingError(f"{out} holds a finished adapter: choose another --out")
        started = time.monotonic()
        with progress() as bar:
            show = _epochs(bar)
            trained = training.train(base, taught, tags, settings, show, dev, before, checkpoint, labels)
        errors.print(f"{len(trained.epochs)} epochs in {(time.monotonic() - started) / 60:.1f} minutes")
        calibration = None
        if dev:
            calibration = calibrate(trained.model, Development(dev, base, tags, labels), tags, labels, precision)
            tags, labels = calibration.tags, calibration.labels
            _print_calibration(calibration, len(dev))
        record = {
            **asdict(settings),
            "listings": len(taught),
            "dev_listings": len(dev),
            "epochs_run": len(trained.epochs),
            "epoch_kept": trained.kept,
            "calibration": calibration.record() if calibration is not None else None,
            "files": {path.name: corpus.digest([path]) for path in files},
            "init": f"{before.card.name} {before.card.version} {before.digest}" if before is not None else None,
        }
        card = adapters.Card(name, version, merchant, base.name, base.fingerprint, tags, labels=labels, training=record)
        trainable.save(trained.model, card, out, _rules(report, origin))
        if scored := dev if data else corpus.held_out():
            scores, _ = scorecard.run(tagger.load(base_model, out), scored)
            replace(card, scores=scores.summary()).write(out)
            _print_scores(
                scores,
                f"{name} {version}: what is found in {'the held-out part' if data else 'listings never seen'}, int8",
            )
        checkpoint.remove()


def _types(labelled: Sequence["Labelled"]) -> tuple[tuple["TagType", ...], tuple["LabelType", ...]]:
    """The tags and listing-level labels that the listings call for."""
    from taggen import corpus  # noqa: PLC0415  as in `train`
    from taggen.adapter import LabelType, TagType  # noqa: PLC0415

    tags = tuple(TagType(name, kind) for name, kind in corpus.tag_set(labelled).items())
    return tags, tuple(LabelType(*label, kind) for label, kind in corpus.label_set(labelled).items())


def _epochs(bar: Progress) -> Callable[["Step | Epoch"], None]:
    """Show the progress of a training: a bar of its steps, a line for each epoch."""
    from taggen.training import Step  # noqa: PLC0415  as in `train`

    task = bar.add_task("training", total=None, loss="")

    def show(report: "Step | Epoch") -> None:
        if isinstance(report, Step):
            bar.update(task, completed=report.step, total=report.steps, loss=f"loss {report.loss:.3f}")
        else:
            f1 = "" if report.f1 is None else f", dev F1 {100 * report.f1:.1f}"
            bar.console.print(f"epoch {report.epoch}: loss {report.loss:.4f}{f1}")

    return show


def _rules(report: "Report", origin: Path | None) -> bytes | None:
    """The adapter's rules.json: that of the one it goes on from, and what the data calls its words."""
    from taggen import wordings  # noqa: PLC0415  as in `train`
    from taggen.adapter import RULES  # noqa: PLC0415
    from taggen.normalize import Rules  # noqa: PLC0415

    additions = (origin / RULES).read_bytes() if origin is not None and (origin / RULES).exists() else None
    learnt = wordings.learn(report, Rules(additions))
    for tag, values in learnt.items():
        said = "; ".join(f"{', '.join(its)} = {value}" for value, its in values.items())
        errors.print(f"rules.json: {tag}: {said}", soft_wrap=True, markup=False)
    return wordings.add(learnt, additions)


def _print_calibration(calibration: "Calibration", listings: int) -> None:
    """What thresholds do on the development part."""
    aim = "the best F1" if calibration.precision is None else f"a precision of {calibration.precision:g} of each tag"
    table = Table("", title=f"thresholds for {aim}, on the {listings} listings held out", title_justify="left")
    for column in ("temperature", "threshold", "precision", "recall", "F1"):
        table.add_column(column, justify="right")
    for name, quality in (("mentions", calibration.of_tags), ("labels", calibration.of_labels)):
        if quality.plain.marked or quality.plain.found:
            for threshold, score in (("0.5", quality.plain), ("tuned", quality.tuned)):
                figures = (f"{100 * figure:.1f}" for figure in (score.precision, score.recall, score.f1))
                table.add_row(name, f"{quality.temperature:.2f}", threshold, *figures)
    errors.print(table)


def _print_scores(scores: "Scorecard", title: str) -> None:
    table = Table("tag", title=title)
    for language in scores.languages:
        table.add_column(f"{language} F1", justify="right")
    for tag_name in scores.languages["all"]:
        row = (by_tag.get(tag_name) for by_tag in scores.languages.values())
        table.add_row(escape(tag_name), *(f"{100 * score.f1:.1f}" if score else "" for score in row))
    for label, score in scores.labels.items():
        table.add_row(f"labels: {escape(label)}", f"{100 * score.f1:.1f}")
    Console().print(table)
