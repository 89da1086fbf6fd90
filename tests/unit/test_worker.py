"""The command `streamer worker` before it reaches a broker."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("BATCH_TOKENS", "lots", "STREAMER_BATCH_TOKENS: Input should be a valid integer"),
        ("BATCH_TOKEN", "1", "STREAMER_BATCH_TOKEN: no such setting"),
        ("SCHEMA_REGISTRY_URL", "nowhere", "STREAMER_SCHEMA_REGISTRY_URL: must be http(s)"),
    ],
)
def test_a_wrong_setting_stops_the_start(name: str, value: str, line: str) -> None:
    """One readable line and exit code 2."""
    environment = {f"STREAMER_{name}": value, "STREAMER_WEB_PORT": "0", "STREAMER_LOG_FORMAT": "console"}
    done = subprocess.run(
        [sys.executable, "-m", "streamer", "worker"],
        env={"STREAMER_LOG_LEVEL": "error"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
