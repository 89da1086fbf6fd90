"""The guides for those who run it, held to the code."""

import re

import pytest
from typer.main import get_command

import streamer.cli
from streamer.settings import PREFIX, Settings
from tests.deployment.contract import ROOT

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
GUIDES = ["operations.md", "scale.md"]


@pytest.mark.parametrize("guide", GUIDES)
def test_the_settings_named_exist(guide: str) -> None:
    """Every STREAMER_ variable, but those that Kubernetes would make of a Service."""
    named = set(re.findall(rf"\b{PREFIX}\w+", TEXTS[guide])) - {"STREAMER_PORT", "STREAMER_SERVICE_HOST"}
    assert named - {PREFIX + name.upper() for name in Settings.model_fields} == set()


@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_named_exist(guide: str) -> None:
    """Every `streamer ...` with its options."""
    for line in re.findall(r"`streamer ([a-z][^`]*)`", TEXTS[guide]):
        command = get_command(streamer.cli.app)
        words = line.split()
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    """To a file of the repository, and to a heading of it."""
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[guide]):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        path = ROOT / "docs" / (file or guide)
        assert path.is_file(), target
        headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if anchor:
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target
