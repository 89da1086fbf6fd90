"""The commands `streamer schemas ...`."""

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.errors import SettingsError
from streamer.terminal import FAILED, load_settings

if TYPE_CHECKING:
    from streamer.registry import Registry
    from streamer.subjects import Finding, Subject

app = typer.Typer(no_args_is_help=True, help="Our schemas in the Schema Registry.")

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a subject.")]


@app.command()
def register(as_json: AsJson = False) -> None:
    """Set the compatibility level of every subject and register our schemas: before each deployment.

    What others write is BACKWARD_TRANSITIVE, what we write FULL_TRANSITIVE. Exit code 1 when the registry refuses one.
    """
    from streamer import subjects  # noqa: PLC0415

    _tell(subjects.register(*_registry()), as_json)


@app.command()
def check(as_json: AsJson = False) -> None:
    """Tell whether our schemas are registered, or would be let in, and change nothing.

    Exit code 1 when one would be refused, or when a subject has another compatibility level.
    """
    from streamer import subjects  # noqa: PLC0415

    _tell(subjects.check(*_registry()), as_json)


def _registry() -> "tuple[Registry, list[Subject]]":
    from streamer.registry import Registry  # noqa: PLC0415
    from streamer.subjects import subjects  # noqa: PLC0415

    settings = load_settings(None)
    if settings.schema_registry_url is None:
        raise SettingsError("STREAMER_SCHEMA_REGISTRY_URL: is not set")
    return Registry(settings.schema_registry_url), subjects(settings)


def _tell(findings: "Iterable[Finding]", as_json: bool) -> None:
    """One line each, as they come; ends the process with their exit code."""
    good = True
    for subject, state, schema_id, problem in findings:
        good = good and problem is None
        if as_json:
            line = {**subject._asdict(), "state": state, "id": schema_id, "problem": problem}
            typer.echo(json.dumps(line, ensure_ascii=False))
            continue
        number = "" if schema_id is None else f" as {schema_id}"
        typer.echo(f"{subject.name}: {subject.schema}, {subject.level}: {state}{number}")
        if problem is not None:
            typer.echo(f"  {problem}", err=True)
    sys.exit(0 if good else FAILED)
