"""The command line: exit codes, one line of error, help."""

import pytest
from typer.testing import CliRunner

from streamer.cli import app


@pytest.fixture
def run(monkeypatch):
    """Run `streamer` with arguments in this process."""
    for name in ("STREAMER_KAFKA_BOOTSTRAP", "STREAMER_SOURCE_TOPICS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["tail", "--bootstrap", "127.0.0.1:1"], 1, "streamer: no Kafka broker answers at 127.0.0.1:1"),
        (["publish", "gone.jsonl"], 2, "streamer: gone.jsonl: No such file or directory"),
    ],
)
def test_error_is_one_line(run, arguments, code, line):
    """What is raised on purpose comes out as one line on stderr and an exit code: 1 the work failed, 2 the input."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"{line}\n")


@pytest.mark.parametrize("command", ["worker", "publish", "tail", "demo"])
def test_wrong_setting(run, monkeypatch, command):
    """A wrong setting stops every command with exit code 2 and a line that names it."""
    monkeypatch.setenv("STREAMER_QUEUE_BYTES", "many")
    result = run(command)
    assert result.exit_code == 2
    assert result.stderr.startswith("streamer: STREAMER_QUEUE_BYTES: ")
    assert result.stderr.count("\n") == 1


def test_updated_needs_a_second_topic(run, monkeypatch):
    """--updated is refused where only one source topic is set."""
    monkeypatch.setenv("STREAMER_SOURCE_TOPICS", "one")
    result = run("publish", "--updated")
    assert result.exit_code == 2
    assert "--updated: STREAMER_SOURCE_TOPICS names one topic only" in result.stderr


@pytest.mark.parametrize(
    "command", [[], ["worker"], ["publish"], ["tail"], ["broker"], ["topics"], ["topics", "create"], ["demo"]]
)
def test_help(run, command):
    """Every command explains itself; the first page names the exit codes."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    if not command:
        assert "Exit codes: 0 done" in " ".join(result.stdout.split())
