"""The command `taggen`: tagging and training without Kafka. Exit codes: 0 done, 1 it failed, 2 wrong usage or data."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from taggen.errors import CorpusError, InvalidListing, TaggenError, TrainingError
from taggen.listing import Listing

if TYPE_CHECKING:
    from taggen.corpus import Report
    from taggen.tag import Tagging
    from taggen.training import Epoch, Step

app = typer.Typer(
    help="Tag marketplace listings with a quantised encoder and a LoRA adapter; no Kafka needed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_errors = Console(stderr=True, highlight=False)


class QuantizationOption(StrEnum):
    """Bits of the base's linear layers."""

    int8 = "int8"
    none = "none"


class DtypeOption(StrEnum):
    """What is computed in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


BaseOption = Annotated[str, typer.Option("--base-model", help="embedded, a Hugging Face id or a local folder.")]
AdapterOption = Annotated[Path | None, typer.Option("--adapter", help="Adapter folder; the one that ships if omitted.")]
Quantized = Annotated[QuantizationOption, typer.Option("--quantization", help="int8, or none for the plain weights.")]
Dtype = Annotated[DtypeOption, typer.Option("--compute-dtype", help="float32, bfloat16 or float16.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Processor threads of the model.")]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except (CorpusError, InvalidListing, TrainingError) as error:
        _errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None
    except TaggenError as error:
        _errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(1) from None


@app.command()
def tag(
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(metavar="FILE", help="JSON lines of listings, - for standard input.")
    ],
    adapter: AdapterOption = None,
    base_model: BaseOption = "embedded",
    quantization: Quantized = QuantizationOption.int8,
    compute_dtype: Dtype = DtypeOption.float32,
    threads: Threads = 2,
) -> None:
    """Tag listings: one JSON object a line in, one JSON object a line out, in order.

    A listing needs `title`; `product_id`, `description`, `attributes` and the other fields of the Avro schema are read
    where present. A bad line ends the run with its number.
    """
    import torch  # noqa: PLC0415  seconds to import; --help need not wait for it

    from taggen import tagger as taggers  # noqa: PLC0415

    torch.set_num_threads(threads)
    with _one_line_errors():
        tagger = taggers.load(base_model, adapter, quantization.value, compute_dtype.value)
        model = asdict(tagger.model)
        listings = _listings(file)
        while batch := list(islice(listings, 64)):
            for listing, tagging in zip(batch, tagger.tag(tagger.prepare(batch)), strict=True):
                line = {"product_id": listing.product_id, **asdict(tagging), "model": model}
                sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
            sys.stdout.flush()


def _listings(lines: BinaryIO) -> Iterator[Listing]:
    name = getattr(lines, "name", "<stdin>")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise CorpusError(f"{where}: not a JSON object")
            missing = {"merchant_id": "-", "product_id": str(number), "listing_version": 0, "event_time": 0}
            yield Listing.from_record(missing | record)
        except (ValueError, RecursionError, InvalidListing) as error:
            raise CorpusError(f"{where}: {error}") from None


@app.command()
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
        float, typer.Option(min=0.0, max=0.9, help="Held out of the data for early stopping; 0 trains on everything.")
    ] = 0.1,
    patience: Annotated[int, typer.Option(min=1, help="Epochs without a better F1 before it stops.")] = 5,
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
    seed: int = 0,
    threads: Threads = 2,
) -> None:
    """Train a LoRA adapter with its head on labelled listings.

    The same command goes on after it was killed, from the last epoch's checkpoint in OUT.
    """
    if init is not None and (rank, alpha, targets) != (None, None, None):
        raise typer.BadParameter("rank, alpha and targets are those of the adapter", param_hint="--init")
    import torch  # noqa: PLC0415  seconds to import; --help need not wait for it

    from taggen import adapter as adapters  # noqa: PLC0415
    from taggen import corpus, evaluate, tagger, trainable, training  # noqa: PLC0415
    from taggen.base import load_base  # noqa: PLC0415
    from taggen.checkpoint import Checkpoint  # noqa: PLC0415

    torch.set_num_threads(threads)
    with _one_line_errors():
        files = data or corpus.train_files()
        labelled, report = corpus.read_any(files)
        _print_doubts(report)
        if oa_mine is not None:
            labelled += corpus.read_any(oa_mine, corpus.OA_MINE)[0]
            files = [*files, oa_mine]
        tag_set = tuple(adapters.TagType(tag, kind) for tag, kind in corpus.tag_set(labelled).items())
        taught, dev = corpus.split(labelled, dev_share, seed)
        rank = rank or 32
        settings = training.Settings(
            epochs=epochs,
            patience=patience,
            batch_listings=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            rank=rank,
            alpha=alpha or 2 * rank,
            targets=tuple(targets.split(",")) if targets else (),
            dropout=dropout,
            seed=seed,
        )
        base = load_base(base_model)
        before = None
        if init is not None:
            before = adapters.read(tagger.default_adapter() if init == "default" else Path(init))
            settings = training.continued(settings, before, base)
        checkpoint = Checkpoint(out, training.describe(base, taught, tag_set, settings, dev, before))
        if checkpoint.load() is None and (out / adapters.CARD).exists():
            raise TrainingError(f"{out} holds a finished adapter: choose another --out")
        started = time.monotonic()
        with _progress() as bar:
            show = _epochs(bar)
            trained = training.train(base, taught, tag_set, settings, show, dev, before, checkpoint)
        _errors.print(f"{len(trained.epochs)} epochs in {(time.monotonic() - started) / 60:.1f} minutes")
        record = {
            **asdict(settings),
            "listings": len(taught),
            "dev_listings": len(dev),
            "epochs_run": len(trained.epochs),
            "epoch_kept": trained.kept,
            "files": {path.name: corpus.digest([path]) for path in files},
            "init": f"{before.card.name} {before.card.version} {before.digest}" if before is not None else None,
        }
        card = adapters.Card(name, version, merchant, base.name, base.fingerprint, tag_set, training=record)
        trainable.save(trained.model, card, out)
        scored = dev if data else corpus.held_out()
        if scored:
            taggings = evaluate.tag_all(tagger.load(base_model, out), scored)
            scores = evaluate.by_language(scored, taggings)
            replace(card, scores=evaluate.card(scores)).write(out)
        checkpoint.remove()
    if scored:
        where = "the development part" if data else "listings never seen"
        _print_scores(scores, f"{name} {version}: mentions found in {where}, int8")


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


@app.command()
def evaluate(
    adapter: Annotated[str, typer.Argument(help="Adapter folder, or `default` for the one that ships.")],
    data: Annotated[
        list[Path] | None, typer.Argument(help="Files of labelled listings; the package's held-out ones if none.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="Another adapter folder (or `default`) to say the differences from.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit with 1 if the adapter is worse than the one it is compared with.")
    ] = False,
    margin: Annotated[float, typer.Option(min=0.0, help="Points of F1 that --gate lets it lose.")] = 1.0,
    tag_names: Annotated[
        Path | None, typer.Option(help="JSON object {name in the data: tag}; other names are left out.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="PNG to draw F1 by tag, precision against recall and reliability into.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables.")] = False,
    base_model: BaseOption = "embedded",
    quantization: Quantized = QuantizationOption.int8,
    compute_dtype: Dtype = DtypeOption.float32,
    threads: Threads = 2,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Score an adapter on labelled listings: exact and partial matches, confidences, mistakes.

    With --gate the adapter is worse than the other if the 95 % interval of the difference in micro F1 (paired bootstrap
    over listings) lies below 0, or the difference itself below -margin.
    """
    if gate and compare is None:
        raise typer.BadParameter("--gate needs --compare", param_hint="--gate")
    import torch  # noqa: PLC0415  seconds to import; --help need not wait for it

    from taggen import compare as comparing  # noqa: PLC0415
    from taggen import corpus, scorecard, tagger  # noqa: PLC0415

    torch.set_num_threads(threads)

    def run(folder: str) -> tuple[scorecard.Scorecard, list["Tagging"]]:
        where = None if folder == "default" else Path(folder)
        its = tagger.load(base_model, where, quantization.value, compute_dtype.value)
        with _progress() as bar:
            task = bar.add_task(f"tagging with {its.model.adapter}", total=len(labelled), loss="")
            return scorecard.run(its, labelled, lambda done: bar.update(task, completed=done))

    with _one_line_errors():
        if data:
            mapping = corpus.read_mapping(tag_names) if tag_names is not None else None
            labelled, report = corpus.read_any(data, mapping)
            _print_doubts(report)
        else:
            labelled = corpus.held_out()
        card, taggings = run(adapter)
        worse = False
        if compare is not None:
            other, others = run(compare)
            comparison = comparing.compare(labelled, taggings, others, seed=seed)
            worse = comparison.worse(margin / 100)
            card = replace(card, other=other.model, comparison=comparison)
    if as_json:
        sys.stdout.write(json.dumps(card.json(), ensure_ascii=False, indent=2) + "\n")
    else:
        card.print(Console())
    if picture is not None:
        card.draw(picture)
    if gate and worse:
        _errors.print(f"[red]worse:[/red] {card.title} must not replace {compare}", soft_wrap=True)
        raise typer.Exit(1)


def _print_doubts(report: "Report") -> None:
    """Say on standard error which values of the data were not found in one exact place."""
    if not report.findings:
        return
    for finding in report.findings[:20]:
        _errors.print(
            f"{finding.where}: {finding.tag} {finding.value!r}: {finding.doubt}", soft_wrap=True, markup=False
        )
    if len(report.findings) > 20:
        _errors.print("...")
    counts = ", ".join(f"{count} {doubt}" for doubt, count in report.doubts.items())
    _errors.print(
        f"{len(report.findings)} values in {report.listings} listings without one exact place: {counts}. "
        "The first of several places is marked, missing ones are left out."
    )


def _progress() -> Progress:
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[loss]}"), console=_errors)


def _print_scores(scores: dict[str, dict[str, Any]], title: str) -> None:
    table = Table("tag", title=title)
    for language in scores:
        table.add_column(f"{language} F1", justify="right")
    for tag_name in scores["all"]:
        row = (by_tag.get(tag_name) for by_tag in scores.values())
        table.add_row(tag_name, *(f"{100 * score.f1:.1f}" if score else "" for score in row))
    Console().print(table)
