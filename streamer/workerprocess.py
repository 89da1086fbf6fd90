"""A worker as a child process with settings of its own: for the demo, and for benchmarks."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp

from streamer import process
from streamer.errors import StreamerError
from streamer.settings import PREFIX, Settings

READY_S = 180.0  # for the worker to load its model, which may have to be unpacked first, and to join its group
POLL_S = 0.1
STOP_S = 12.0  # what a worker may take to finish, and some more
LOG_LINES = 15

T = TypeVar("T")


class WorkerFailed(StreamerError):
    """The process ended or was never ready; says where its log is, and the end of it."""


class WorkerProcess:
    """`streamer worker` as a child process with settings of its own; a context manager that ends it."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings = settings
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = process.spawn(
            [sys.executable, "-m", "streamer", "worker"], _environment(self._settings), self._log
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            process.end(self._process, signal.SIGTERM, STOP_S)

    async def ready(self) -> None:
        """Return once it consumes; raises WorkerFailed after READY_S."""
        url = f"http://{self._settings.web_host}:{self._settings.web_port}/readyz"
        deadline = time.monotonic() + READY_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline:
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not listening yet
                await asyncio.sleep(POLL_S)
        raise WorkerFailed(f"the worker was not ready within {READY_S:.0f} s; {self.last_words()}")

    async def watch(self) -> None:
        """Raises WorkerFailed when the process ends."""
        while self._process is not None:
            if (status := self._process.poll()) is not None:
                raise WorkerFailed(f"the worker ended with status {status}; {self.last_words()}")
            await asyncio.sleep(POLL_S)

    async def while_alive(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work, which is given up when the process ends first. Raises WorkerFailed then."""
        working = asyncio.create_task(work)
        watching = asyncio.create_task(self.watch())
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await watching
            return await working
        finally:
            await cancelled(working, watching)

    def last_words(self) -> str:
        """Where its log is, and the end of it."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return "\n".join([f"its log is {self._log}" + (", and ends:" if lines else ""), *lines[-LOG_LINES:]])


def _environment(settings: Settings) -> dict[str, str]:
    """This process's environment with these settings in it."""
    environment = dict(os.environ)
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, tuple):
            value = ",".join(value)
        elif hasattr(value, "get_secret_value"):
            value = value.get_secret_value()
        if value is not None:
            environment[PREFIX + name.upper()] = str(value)
    return environment


async def cancelled(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel tasks and wait for their end, whatever that is."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
