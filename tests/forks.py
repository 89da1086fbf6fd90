"""Processes of a Python module that need not import torch and transformers first: nine of a worker's ten seconds.

A fork server imports them once; each process is forked from there, takes on its own environment, and runs the module as
`python -m` does. They are processes like others: with a pid, signals, and memory of their own.
"""

import multiprocessing
import os
import random
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# nothing that reads the environment when it is imported, as streamer.failpoints does
_PRELOADED = ["taggen.tagger", "bitsandbytes", "aiokafka"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


class Forked:
    """`python -m MODULE ARGUMENTS`, its output in a file; as much of `subprocess.Popen` as tests use."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        output: Path,
        errors: Path | None = None,
    ) -> None:
        """In this folder; without a file for what goes to standard error, that goes to `output` too."""
        output.write_bytes(b"")  # there from the start, as with Popen
        run = (module, arguments, dict(environment), folder, output, errors)
        self._process = _context.Process(target=_run, args=run)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    output: Path,
    errors: Path | None,
) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(output, os.O_WRONLY)
    error = out if errors is None else os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for source, target in ((nothing, 0), (out, 1), (error, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    random.seed()  # the server's is everybody's
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
