"""Bringing versions into memory: read, checked and tried beside the stream, again and again while the store is away.

    loading ──> ready
       ├──────> retrying    store or disk in trouble, or the device; tried again, the pause doubles
       └──────> refused     by its content, for good

All of that runs in threads of their own; trying only where the tagger is `concurrent`, else the model's thread does it.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum
from typing import Any, Protocol

from streamer import failpoints
from streamer.modelthread import ModelThread
from streamer.pipeline import Tagger
from taggen.adapter import Adapter
from taggen.admission import admit
from taggen.errors import AdapterError, StoreUnavailable
from taggen.reference import Reference
from taggen.store import Store
from taggen.tag import Model

LOADERS = 4  # threads; reading waits for the store or the disk
URGENT_LOADERS = 2  # more, for what a record names: a swap does not wait for the merchants that are cold
SLOW_S = 10.0  # a load that takes longer counts as trouble, and goes on
RETRY_FIRST_S, RETRY_MOST_S = 0.5, 30.0  # the pause doubles from one to the other


class AdapterTagger(Tagger, Protocol):
    """What is needed of `taggen.tagger.Tagger`."""

    @property
    def concurrent(self) -> bool:
        """Whether the model may be called by several threads at once."""

    @property
    def default(self) -> Adapter:
        """The adapter that serves whoever has none; there is always room for it."""

    def acquire(self, adapter: Adapter) -> Any | None:
        """A slot for the adapter, held until it is released; None when there is no room now."""

    def acquire_resident(self, digest: str) -> Any | None:
        """The slot of an adapter that is on the device, held as well; None when it is not."""

    def release(self, slot: Any) -> None:
        """Give it back; from any thread."""

    def model_of(self, adapter: Adapter, revision: int) -> Model:
        """What its tag events call it."""

    def check(self, adapter: Adapter) -> None:
        """Raises AdapterError when it does not fit the base."""

    def smoke(self, adapter: Adapter, run: Callable[[Callable[[], object]], object]) -> None:
        """Tags a fixed listing, the model call by `run`; raises AdapterError."""


class State(Enum):
    """Of a version for a merchant, in this worker; changed by `Loader` alone."""

    LOADING = "loading"
    READY = "ready"  # loaded, checked and tried; may have left the memory since
    RETRYING = "retrying"
    REFUSED = "refused"


class Version:
    """A version for a merchant."""

    __slots__ = ("admitted", "known", "merchant", "problem", "reference", "revisions", "state", "task", "wanted")

    def __init__(self, merchant: str, reference: Reference) -> None:
        self.merchant = merchant
        self.reference = reference
        self.state = State.LOADING
        self.admitted = False  # it was READY once
        self.problem: tuple[str | None, str | None] = (None, None)  # reason and detail of what keeps it from that
        self.revisions: list[int] = []  # of the records that are to hear what becomes of it
        self.task: asyncio.Task[None] | None = None  # loads it
        self.known = asyncio.Event()  # it has left LOADING
        self.wanted = asyncio.Event()  # ends the pause between two tries


class Listener(Protocol):
    """Who is told what becomes of a version; in the event loop, when its state is the new one."""

    def ready(self, version: Version, trial_s: float, news: bool) -> None:
        """It is in memory; `trial_s` is what its trial took from the model at most, 0 when that was before; not `news`:
        it only left the memory for a while."""

    def refused(self, version: Version) -> None:
        """Its content must not be served."""

    def in_trouble(self, version: Version, news: bool) -> None:
        """It cannot be had now; not `news`: as before."""


class _Engine:
    """The tagger as admission asks for it from a loader's thread, once."""

    def __init__(self, tagger: AdapterTagger, model_thread: ModelThread, urgent: bool) -> None:
        self.check = tagger.check
        self.trial_s = 0.0  # of processor time beside the model's thread, or of that thread: delays no batch by more
        self._tagger = tagger
        self._submit = model_thread.submit_urgent if urgent else model_thread.submit

    def smoke(self, adapter: Adapter) -> None:
        self._tagger.smoke(adapter, self._beside if self._tagger.concurrent else self._in_turn)

    def _beside(self, call: Callable[[], object]) -> None:
        self._timed(call, time.thread_time)

    def _in_turn(self, call: Callable[[], object]) -> None:
        self._submit(self._timed, call, time.perf_counter).result()

    def _timed(self, call: Callable[[], object], clock: Callable[[], float]) -> None:
        started = clock()
        call()
        failpoints.reach("copied")
        self.trial_s = clock() - started


class Loader:
    """Owns the versions and their states."""

    def __init__(self, tagger: AdapterTagger, store: Store, model_thread: ModelThread, listener: Listener) -> None:
        self._tagger = tagger
        self._store = store
        self._model_thread = model_thread
        self._listener = listener
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="adapter")
        self._urgent_loaders = ThreadPoolExecutor(URGENT_LOADERS, thread_name_prefix="swap")
        self._versions: dict[tuple[str, Reference], Version] = {}
        self._asked = 0  # attempts that are on their way
        self._answered = 0.0  # when the last of them ended, or the first began (loop.time)

    def known(self, merchant: str, reference: Reference) -> Version | None:
        """The version for the merchant, if anybody has asked for it."""
        return self._versions.get((merchant, reference))

    def version(self, merchant: str, reference: Reference) -> Version:
        """The version for the merchant, known or new."""
        key = merchant, reference
        version = self._versions.get(key)
        if version is None:
            version = self._versions[key] = Version(merchant, reference)
        return version

    def in_memory(self, version: Version) -> bool:
        """Whether it can be served without reading it."""
        return version.state is State.READY and self._store.cached(version.reference) is not None

    def load(self, version: Version) -> None:
        """Begin to load the version, unless that is going on or it is refused."""
        if version.state is not State.REFUSED and (version.task is None or version.task.done()):
            version.task = asyncio.create_task(self._loading(version))

    async def _loading(self, version: Version) -> None:
        loop = asyncio.get_running_loop()
        pause_s = RETRY_FIRST_S
        while True:
            urgent = bool(version.revisions)
            threads = self._urgent_loaders if urgent else self._loaders
            attempt = loop.run_in_executor(threads, self._attempt, version, urgent)
            if not self._asked:
                self._answered = loop.time()
            self._asked += 1
            while not (await asyncio.wait({attempt}, timeout=SLOW_S))[0]:
                if loop.time() - self._answered >= SLOW_S:  # else there is only much to load
                    self._in_trouble(version, "store_unavailable", f"no answer within {SLOW_S:g} s")
            self._asked -= 1
            self._answered = loop.time()
            try:
                trial_s = await attempt
            except AdapterError as error:
                if not version.admitted:
                    self._refused(version, error)
                    return
                self._in_trouble(version, error.reason, str(error))  # the store does not give what it gave before
            except Exception as error:  # store, disk, device, or a bug of ours: nothing that it holds
                reason = "store_unavailable" if isinstance(error, StoreUnavailable) else "failed"
                self._in_trouble(version, reason, f"{type(error).__name__}: {error}")
            else:
                self._ready(version, trial_s)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await version.wanted.wait()
            version.wanted.clear()
            pause_s = min(2 * pause_s, RETRY_MOST_S)

    def _attempt(self, version: Version, urgent: bool) -> float:
        """In a loader's thread; returns the seconds that the trial took from the model."""
        adapter = self._store.load(version.reference)
        failpoints.reach("loaded")
        engine = _Engine(self._tagger, self._model_thread, urgent)
        if not version.admitted:
            admit(adapter, version.reference, version.merchant, engine)
            failpoints.reach("admitted")
        return engine.trial_s

    def _ready(self, version: Version, trial_s: float) -> None:
        news = version.state is not State.READY
        version.state = State.READY
        version.admitted = True
        version.known.set()
        self._listener.ready(version, trial_s, news)

    def _refused(self, version: Version, error: AdapterError) -> None:
        version.state = State.REFUSED
        version.problem = error.reason, str(error)
        version.known.set()
        self._listener.refused(version)

    def _in_trouble(self, version: Version, reason: str, detail: str) -> None:
        news = version.state is not State.RETRYING or version.problem != (reason, detail)
        version.state = State.RETRYING
        version.problem = reason, detail
        version.known.set()
        self._listener.in_trouble(version, news)

    def close(self) -> bool:
        """Stop loading; returns False when a thread does not end by itself, such as one that waits for a store."""
        tasks = [version.task for version in self._versions.values() if version.task and not version.task.done()]
        for task in tasks:
            task.cancel()
        for threads in (self._loaders, self._urgent_loaders):
            threads.shutdown(wait=False, cancel_futures=True)
        return not tasks
