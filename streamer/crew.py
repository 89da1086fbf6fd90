"""A crew: processes that share a replay, each with a model of its own.

Whole partitions go to each, so that a product's records of one partition stay in order, and how far each has come is
written down as by a single process: the next run of the id may have a larger crew, a smaller one, or none. The parent
makes the plan and the survey for all of them, and sums up what they say. They end with it, however it ends.
"""

import asyncio
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn, Self

from streamer import logs
from streamer.errors import InputError, SettingsError, StreamerError
from streamer.history import History
from streamer.pipeline import Tagger
from streamer.plan import Plan
from streamer.replay import Options, Replay, Result, Status, begin
from streamer.settings import Settings
from streamer.survey import survey
from streamer.tally import Tally
from taggen.errors import TaggenError

STATUS_S = 0.5  # between two reports of a member
POLL_S = 0.1

Load = Callable[[Settings], Tagger]


class Crew:
    """One run of a replay by `options.workers` processes; used as a `Replay` is."""

    def __init__(
        self,
        settings: Settings,
        options: Options,
        load: Load,
        tally: Tally | None = None,
        saved: Callable[[Plan, Tally], None] = lambda plan, tally: None,
    ) -> None:
        """As a Replay's; `load` is called in each process, so it must be a function that can be imported there."""
        self._settings = settings
        self._options = options
        self._load = load
        self._before = tally or Tally()
        self._saved = saved
        self._plan: Plan | None = None
        self._members: list[_Member] = []

    @property
    def status(self) -> Status | None:
        """How far all of them are; None before there is a plan."""
        if self._plan is None:
            return None
        said, total = [member.status for member in self._members], self._plan.offsets
        return Status(
            total - sum(one.total - one.done for one in said),
            total,
            self._before.listings + sum(one.listings for one in said),
            self._before.different + sum(one.different for one in said),
            any(one.paused for one in said),
        )

    async def run(self) -> Result:
        """Do it. Raises as a Replay does, by what the first member failed with; the others are ended then."""
        plan = await begin(self._settings, self._options)
        if not plan.left:
            return Result(plan, self._before, finished=True)
        with tempfile.TemporaryDirectory(prefix="streamer-replay-") as folder, ExitStack() as members:
            self._members = [members.enter_context(one) for one in self._muster(plan)]
            self._plan = plan
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._survey(plan, Path(folder) / "history"))
                    tasks.create_task(self._listen(plan))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
        return Result(plan, self._tally(), finished=False)

    def _muster(self, plan: Plan) -> "list[_Member]":
        settings, options = self._settings, self._options
        shares = plan.shares(options.workers)
        if settings.torch_threads is None:  # each would take all cores, and they would wait for each other
            threads = max(1, (os.cpu_count() or 1) // len(shares))
            settings = settings.model_copy(update={"torch_threads": threads})
        left = sum(share.offsets_left for share in shares)
        rates = [options.rate and options.rate * share.offsets_left / left for share in shares]
        return [
            _Member(settings, replace(options, rate=rate), share, self._load)
            for share, rate in zip(shares, rates, strict=True)
        ]

    async def _survey(self, plan: Plan, file: Path) -> None:
        """Look up once what all of them ask, while they load their models."""
        with await survey(self._settings, self._options.selection, plan, file):
            pass
        for member in self._members:
            with suppress(ConnectionError):  # it has ended: why, it has said
                member.connection.send(file)

    async def _listen(self, plan: Plan) -> None:
        """Hear them all to their ends."""
        listening: dict[Any, _Member] = {member.connection: member for member in self._members}
        while listening:
            ready = wait(listening, timeout=0)
            if not ready:
                await asyncio.sleep(POLL_S)
            for connection in ready:
                message = listening[connection].hear()
                if message is None:
                    del listening[connection]
                elif isinstance(message, Tally):
                    self._saved(plan, self._tally())

    def _tally(self) -> Tally:
        tally = deepcopy(self._before)
        for member in self._members:
            tally.add(member.tally)
        return tally


class _Member:
    """A process of the crew, as the parent sees it; a context manager that starts and ends it."""

    def __init__(self, settings: Settings, options: Options, plan: Plan, load: Load) -> None:
        spawn = multiprocessing.get_context("spawn")  # torch must not be forked
        self.connection, self._theirs = spawn.Pipe()
        self.status = Status(plan.offsets_done, plan.offsets, 0, 0, paused=False)
        self.tally = Tally()
        self._process = spawn.Process(target=_work, args=(settings, options, plan, load, self._theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()  # else nobody would notice its end
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()  # what it has not written down is done again by the next run
        self._process.join()
        self.connection.close()

    def hear(self) -> Status | Tally | None:
        """What it says next; None: it has ended. Raises what it failed with."""
        try:
            message: Status | Tally | StreamerError = self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            if code := self._process.exitcode:
                raise StreamerError(f"a worker of the replay has ended with status {code}") from None
            return None
        if isinstance(message, StreamerError):
            raise message
        if isinstance(message, Status):
            self.status = message
        else:
            self.tally = message
        return message


def _work(settings: Settings, options: Options, plan: Plan, load: Load, connection: Connection) -> None:
    """A member's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is the parent's to answer
    logs.configure(settings)
    try:
        asyncio.run(_carry(settings, options, plan, load, connection))
    except (StreamerError, TaggenError) as error:
        # its own type may not come through a pipe; what counts is the exit code that the parent makes of it
        kind = InputError if isinstance(error, SettingsError | InputError) else StreamerError
        _say(connection, kind(str(error)))


async def _carry(settings: Settings, options: Options, plan: Plan, load: Load, connection: Connection) -> None:
    async def surveyed() -> History:
        try:
            return History.open(await asyncio.to_thread(connection.recv))
        except (EOFError, ConnectionError):
            _alone()

    async def report() -> None:
        while True:
            _say(connection, running.status)
            await asyncio.sleep(STATUS_S)

    running = Replay(settings, options, load, saved=lambda _, tally: _say(connection, tally))
    reporting = asyncio.create_task(report())
    try:
        await running.carry(plan, surveyed)
    finally:
        reporting.cancel()
    _say(connection, running.status)


def _say(connection: Connection, message: Status | Tally | StreamerError | None) -> None:
    if message is not None:
        try:
            connection.send(message)
        except ConnectionError:
            _alone()


def _alone() -> NoReturn:
    """The parent has gone."""
    os._exit(1)
