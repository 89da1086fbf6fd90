"""Logging: one line an event, ours and the libraries', and none of their tracebacks."""

import json
import logging

import pytest
import structlog

from streamer import logs
from streamer.settings import Settings


@pytest.fixture(autouse=True)
def _restored() -> object:
    levels = {name: logging.getLogger(name).level for name in ("", *logs.LOUD)}
    handlers = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Our events and a library's warning have the same form; text stays readable."""
    logs.configure(Settings(log_format="json"))
    structlog.get_logger("ours").info("batch", tagged=3, name="皮革")
    logging.getLogger("some.library").warning("careful")
    ours, theirs = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (ours["event"], ours["level"], ours["tagged"], ours["name"]) == ("batch", "info", 3, "皮革")
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("careful", "warning", "some.library")


def test_level_and_loud_libraries(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing below the level, and nothing of the libraries whose tracebacks may quote a listing, short of debug."""
    logs.configure(Settings(log_level="warning"))
    structlog.get_logger("ours").info("batch")
    logging.getLogger("faust.agents").error("Crashed reason=%r", ValueError("a listing"))
    assert capsys.readouterr().err == ""
    logs.configure(Settings(log_level="debug"))
    logging.getLogger("faust.agents").error("crashed")
    assert "crashed" in capsys.readouterr().err
