"""`taggen evaluate`."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from taggen.cli.console import errors, one_line_errors, print_doubts, progress
from taggen.cli.options import BaseOption, Dtype, DtypeOption, QuantizationOption, Quantized, Threads

if TYPE_CHECKING:
    from taggen.tag import Tagging


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
        with progress() as bar:
            task = bar.add_task(f"tagging with {its.model.adapter}", total=len(labelled), loss="")
            return scorecard.run(its, labelled, lambda done: bar.update(task, completed=done))

    with one_line_errors():
        if data:
            mapping = corpus.read_mapping(tag_names) if tag_names is not None else None
            labelled, report = corpus.read_any(data, mapping)
            print_doubts(report)
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
        errors.print(f"[red]worse:[/red] {card.title} must not replace {compare}", soft_wrap=True)
        raise typer.Exit(1)
