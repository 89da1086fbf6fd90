"""The settings: read from the environment, frozen, refused in one readable line."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from streamer import settings
from streamer.errors import SettingsError


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the prefix; names are separated by commas."""
    monkeypatch.setenv("STREAMER_KAFKA_BOOTSTRAP", "a:1, b:2")
    monkeypatch.setenv("STREAMER_SOURCE_TOPICS", "one, two")
    monkeypatch.setenv("STREAMER_BATCH_LISTINGS", "7")
    loaded = settings.load()
    assert loaded.source_topics == ("one", "two")
    assert loaded.batch_listings == 7
    assert loaded.client_options()["bootstrap_servers"] == ["a:1", "b:2"]


def test_settings_are_frozen() -> None:
    """Nothing changes them later."""
    with pytest.raises(ValidationError):
        settings.Settings().batch_listings = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"BATCH_LISTING": "7"}, "STREAMER_BATCH_LISTING: no such setting"),
        ({"BATCH_LISTINGS": "many"}, "STREAMER_BATCH_LISTINGS: Input should be a valid integer"),
        ({"BATCH_LISTINGS": "0"}, "STREAMER_BATCH_LISTINGS: Input should be greater than or equal to 1"),
        ({"QUANTIZATION": "int4"}, "STREAMER_QUANTIZATION: Input should be 'int8' or 'none'"),
        ({"SOURCE_TOPICS": " , "}, "STREAMER_SOURCE_TOPICS: at least one is needed"),
        ({"SOURCE_TOPICS": "product-tags"}, "STREAMER_SOURCE_TOPICS: an output topic must not be read"),
        ({"LATEST_TOPIC": "product-tags"}, "STREAMER_LATEST_TOPIC: must be a topic of its own"),
        ({"SECURITY_PROTOCOL": "SASL_SSL"}, "STREAMER_SECURITY_PROTOCOL: SASL_SSL needs sasl_username"),
        ({"SSL_CERT_FILE": "cert.pem"}, "STREAMER_SSL_CERT_FILE: a client certificate needs ssl_key_file"),
        ({"DEAD_LETTER_MINIMUM": "300"}, "STREAMER_DEAD_LETTER_MINIMUM: must not be larger"),
    ],
)
def test_a_wrong_setting_is_one_readable_line(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    """It names the variable and what is wrong with it."""
    for name, value in variables.items():
        monkeypatch.setenv(f"STREAMER_{name}", value)
    with pytest.raises(SettingsError) as raised:
        settings.load()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the settings' repr nor an error shows a password."""
    monkeypatch.setenv("STREAMER_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("STREAMER_SASL_USERNAME", "user")
    assert "hunter2" not in repr(settings.load())
    assert settings.load().client_options()["sasl_plain_password"] == "hunter2"  # noqa: S105  # made up
    monkeypatch.setenv("STREAMER_SECURITY_PROTOCOL", "wrong")
    with pytest.raises(SettingsError) as raised:
        settings.load()
    assert "hunter2" not in str(raised.value)


def test_certificate_files_that_do_not_load_are_named(tmp_path: Path) -> None:
    """A missing authority's file is found at the start, not at the first connection."""
    chosen = settings.Settings(security_protocol="SSL", ssl_ca_file=tmp_path / "none.pem")
    with pytest.raises(SettingsError, match=r"STREAMER_SSL_.*No such file"):
        chosen.ssl_context()
