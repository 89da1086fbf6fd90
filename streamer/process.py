"""Child processes that never outlive what started them."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Asks the kernel for SIGKILL on the parent's death, then becomes the broker. A program of its own and not preexec_fn:
# Python code between fork and exec may deadlock in a process with threads, and torch has many.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def spawn(
    command: Sequence[str | Path], environment: Mapping[str, str], log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, so that Ctrl-C at the terminal does not reach it.

    On Linux it dies with the thread that called this, however that ends. Its output is appended to `log`, None throws
    it away.
    """
    parts = [str(part) for part in command]
    if sys.platform == "linux":
        parts = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *parts]
    with Path(log or os.devnull).open("ab") as output:
        return subprocess.Popen(
            parts,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )


def end(process: "subprocess.Popen[bytes]", by: signal.Signals, timeout_s: float) -> None:
    """Send a signal and wait until the process has ended, by force (SIGKILL) after `timeout_s`."""
    if process.poll() is not None:
        return
    process.send_signal(by)
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
