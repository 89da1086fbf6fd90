"""Fail points: nothing without the variable, the end of the process at the Nth time with it."""

import os
import signal
import subprocess
import sys

import pytest

from streamer import failpoints


def run(asked: str) -> "subprocess.CompletedProcess[str]":
    """A process that reaches a step three times."""
    program = (
        "from streamer import failpoints\nfor n in range(3):\n print(n, flush=True)\n failpoints.reach('delivered')"
    )
    environment = os.environ | {failpoints.VARIABLE: asked}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("asked", "code", "reached"),
    [
        ("", 0, "0\n1\n2\n"),
        ("encoded", 0, "0\n1\n2\n"),
        ("delivered", -signal.SIGKILL, "0\n"),
        ("delivered:2", -signal.SIGKILL, "0\n1\n"),
    ],
)
def test_the_process_is_killed_at_the_step_asked_for(asked: str, code: int, reached: str) -> None:
    """And nowhere else."""
    done = run(asked)
    assert (done.returncode, done.stdout) == (code, reached)


def test_a_step_that_does_not_exist() -> None:
    """Is said, instead of being waited for."""
    assert "no step 'deliverd'" in run("deliverd").stderr
