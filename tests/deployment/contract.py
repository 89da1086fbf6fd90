"""What a deployment file says about a container, held to the code: settings, command line, paths of the web server."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import streamer.cli
from streamer import settings
from streamer.metrics import Metrics
from streamer.settings import PREFIX, Settings
from streamer.web import WebServer

ROOT = Path(__file__).parents[2]


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that a process with this environment has; raises SettingsError as it would."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(PREFIX):
                patch.delenv(name)
        for name, value in environment.items():
            patch.setenv(name, value)
        return settings.load()


def parsed(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The command that `streamer ARGUMENTS` runs ("topics create") and its parameters; fails where it would."""
    command = get_command(streamer.cli.app)
    words = list(arguments)
    names = []
    while hasattr(command, "commands"):
        names.append(words.pop(0) if words else "")
        assert names[-1] in command.commands, f"no such command: {' '.join(arguments)}"
        command = command.commands[names[-1]]
    return " ".join(names), command.make_context(names[-1], words).params


class Healthy:
    healthy = ready = True


async def paths() -> set[str]:
    """What the worker's web server answers."""
    server = WebServer(Healthy(), Metrics(), "127.0.0.1", 0)
    await server.start()
    try:
        return {resource.canonical for resource in server._runner.app.router.resources()}
    finally:
        await server.stop()
