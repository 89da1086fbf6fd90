"""The checks of this folder do fail for what the code does not have."""

import pytest

from streamer.errors import SettingsError
from streamer.settings import Settings
from tests.deployment.contract import parsed, paths, settings_of


def test_a_renamed_setting_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no setting, and one that was one before it was renamed."""
    assert settings_of({"STREAMER_WEB_PORT": "81"}).web_port == 81
    with pytest.raises(SettingsError, match="STREAMER_PORT: no such setting"):
        settings_of({"STREAMER_PORT": "81"})
    fields = {"web_harbour" if name == "web_port" else name: field for name, field in Settings.model_fields.items()}
    monkeypatch.setattr(Settings, "__pydantic_fields__", fields)
    with pytest.raises(SettingsError, match="STREAMER_WEB_PORT: no such setting"):
        settings_of({"STREAMER_WEB_PORT": "81"})


@pytest.mark.parametrize(
    "words", [["topics", "destroy"], ["topics"], ["worker", "--fast"], ["topics", "create", "now"]]
)
def test_a_command_that_does_not_exist_is_found(words: list[str]) -> None:
    """A wrong command, half of one, a wrong option, an argument too many."""
    with pytest.raises(Exception, match=r"no such command|No such option|unexpected extra argument"):
        parsed(words)


async def test_paths_are_those_of_the_server() -> None:
    """All of the worker's web server, and no other."""
    assert await paths() == {"/metrics", "/healthz", "/readyz"}
