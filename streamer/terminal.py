"""What the commands share: the option for the broker, the settings behind it, and the console."""

import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from streamer import settings as environment
from streamer.settings import Settings

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130  # exit codes
PLAIN_WIDTH = 120  # columns, where there is no terminal to ask

Bootstrap = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The broker, instead of STREAMER_KAFKA_BOOTSTRAP.", show_default=False),
]


def load_settings(bootstrap: str | None) -> Settings:
    """The settings of the environment, with another broker where one is named. Raises SettingsError."""
    settings = environment.load()
    settings.ssl_context()  # its files are read later: say now what is wrong with them
    return settings.model_copy(update={"kafka_bootstrap": bootstrap}) if bootstrap else settings


def new_console() -> Console:
    """The terminal, or as wide a page as fits most."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else PLAIN_WIDTH)
