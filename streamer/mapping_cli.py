"""The commands `streamer map ...`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from streamer.terminal import FAILED, load_settings, new_console

app = typer.Typer(no_args_is_help=True, help="Mappings: events that are not ours, as listings.")


@app.callback()
def main() -> None:
    """Mappings: events that are not ours, as listings."""


@app.command()
def check(
    mapping: Annotated[Path, typer.Argument(help="TOML or JSON: a JMESPath expression for each field of a listing.")],
    sample: Annotated[
        Path,
        typer.Argument(
            help="Events: a JSON object, or one a line; or one record's value with its Confluent frame, which asks "
            "the schema registry of STREAMER_SCHEMA_REGISTRY_URL."
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
) -> None:
    """Show what a mapping makes of sample events, and which fields stay empty.

    Exit code 1 when an event would become a dead letter: a required field is missing, or an expression fails.
    """
    from streamer import sample as samples  # noqa: PLC0415
    from streamer.codec import Codec  # noqa: PLC0415
    from streamer.mapping import EventMapping  # noqa: PLC0415

    expressions = EventMapping.load(mapping)
    codec = Codec.from_settings(load_settings(None).model_copy(update={"mapping": None}))
    console = new_console()
    failed = 0
    for number, event in enumerate(samples.events(sample, codec), 1):
        checked = samples.check(expressions, event)
        failed += checked.problem is not None
        if as_json:
            typer.echo(json.dumps({"event": number, **checked._asdict(), "empty": checked.empty}, ensure_ascii=False))
            continue
        console.print(samples.table(expressions, number, checked))
        verdict = f"[red]dead letter: {escape(checked.problem)}[/]" if checked.problem else "[green]a listing[/]"
        console.print(verdict + (f"; empty: {', '.join(checked.empty)}" if checked.empty else ""), "\n")
    sys.exit(FAILED if failed else 0)
