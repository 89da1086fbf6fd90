"""What the commands share: options, the settings behind them, and the console."""

import os
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from streamer import settings as environment
from streamer.settings import Settings

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130  # exit codes
PLAIN_WIDTH = 120  # columns, where there is no terminal to ask
TIME_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

Bootstrap = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The broker, instead of STREAMER_KAFKA_BOOTSTRAP.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")]


def time_option(help_text: str) -> Any:
    """An option that takes a time."""
    return typer.Option(
        metavar="TIME", help=f"{help_text} UTC, as 2026-11-24T15:30.", show_default=False, formats=TIME_FORMATS
    )


def load_settings(bootstrap: str | None) -> Settings:
    """The settings of the environment, with another broker where one is named. Raises SettingsError."""
    settings = environment.load()
    settings.ssl_context()  # its files are read later: say now what is wrong with them
    return settings.model_copy(update={"kafka_bootstrap": bootstrap}) if bootstrap else settings


def new_console() -> Console:
    """The terminal, or as wide a page as fits most."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else PLAIN_WIDTH)


def milliseconds(moment: datetime | None) -> int | None:
    """Since 1970; a time without a zone is UTC."""
    if moment is None:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
