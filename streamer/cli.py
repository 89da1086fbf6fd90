"""The command `streamer`."""

import sys

import typer

from streamer import settings as environment
from streamer.errors import SettingsError

app = typer.Typer(help=__doc__, no_args_is_help=True)

WRONG_SETTING = 2  # exit code, as in streamer.worker


@app.callback()
def main() -> None:
    """Product events on Kafka in, attribute tags out. Settings are environment variables: STREAMER_..."""


@app.command()
def worker() -> None:
    """Consume listings and write their tags, until SIGTERM or Ctrl-C."""
    from streamer import worker as service  # noqa: PLC0415  # seconds: not for `--help`

    sys.exit(service.run(_settings()))


def _settings() -> environment.Settings:
    try:
        settings = environment.load()
        settings.ssl_context()  # its files are read later: say now what is wrong with them
    except SettingsError as error:
        typer.echo(f"streamer: {error}", err=True)
        sys.exit(WRONG_SETTING)
    return settings
