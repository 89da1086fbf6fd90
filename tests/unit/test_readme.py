import re
from pathlib import Path

import pytest
from typer.main import get_command

import streamer.cli
import taggen.cli
from streamer.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = ("training.md", "adapters.md")
SHOWN = "".join([README, *((ROOT / "docs" / guide).read_text(encoding="utf-8") for guide in GUIDES)])


def _shown(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, tuple):
        return f"`{','.join(default)}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def test_the_settings_table_is_the_code() -> None:
    """The README lists every setting with its default, and none that is not there."""
    rows = re.findall(rf"^\| `({PREFIX}\w+)` \| (.*?) \|", README, re.MULTILINE)
    fields = {PREFIX + name.upper(): _shown(field.default) for name, field in Settings.model_fields.items()}
    assert dict(rows) == fields


@pytest.mark.parametrize("program", ["streamer", "taggen"])
def test_the_commands_shown_exist(program: str) -> None:
    """Every `streamer X` and `taggen X` that the README and the guides show is a command with the options shown."""
    app = get_command({"streamer": streamer.cli.app, "taggen": taggen.cli.app}[program])
    shown = re.findall(rf"^    {program} ([^#\n]*)", SHOWN, re.MULTILINE)
    assert shown
    for line in shown:
        command = app
        words = line.split()
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, line
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
