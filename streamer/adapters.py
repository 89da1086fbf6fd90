"""The merchants' adapters in a worker: from the control topic's records to the slot that tags a listing.

    record ──> route ──> version, in memory ──> slot of a batch

A version that is new takes over when it is ready; until then, and if it is refused, the one before serves. All of it
happens in the event loop; `streamer.loading` does what takes time in threads.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog

from streamer import failpoints
from streamer.loading import LOADERS, AdapterTagger, Loader, State, Version
from streamer.metrics import Metrics
from streamer.modelthread import ModelThread
from streamer.pipeline import FALLBACK, Served, now_ms
from streamer.records import WorkerState
from streamer.routing import Route, RouteChange, Routing
from taggen.adapter import Adapter
from taggen.listing import Listing
from taggen.reference import Reference
from taggen.store import Store
from taggen.tag import Model

REMEMBERED_MODELS = 10_000

log = structlog.get_logger(__name__)


class Report(Protocol):
    """Says what became of a version, as `streamer.reporter.Reporter.report`."""

    def __call__(
        self,
        state: WorkerState,
        merchant_id: str,
        revision: int,
        adapter: Reference | None,
        reason: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Never blocks."""


class Adapters:
    """Follows the control topic's records, and serves the listings of batches."""

    def __init__(
        self,
        tagger: AdapterTagger,
        store: Store,
        base_fingerprint: str,
        model_thread: ModelThread,
        metrics: Metrics,
    ) -> None:
        self.routing = Routing(base_fingerprint)
        self._tagger = tagger
        self._store = store
        self._metrics = metrics
        self._loader = Loader(tagger, store, model_thread, self)
        self._certain: dict[str, int] = {}  # merchant → newest revision that no refusal will take back
        self._used: dict[str, int] = {}  # merchant → newest revision that a listing was tagged by
        self._changed_at: dict[str, tuple[int, int]] = {}  # merchant → newest live record: revision, timestamp
        self._models: dict[tuple[str, int], Model] = {}
        self._leases: set[Lease] = set()
        self._short_of_room = False  # some listing waits for a lease to end
        self._live = False
        self._report: Report | None = None
        self._read_to_end: Callable[[], Awaitable[None]] | None = None
        self._changed: Callable[[], None] = lambda: None

    def connect(self, report: Report, read_to_end: Callable[[], Awaitable[None]]) -> None:
        """Say where reports go, and what reads the control topic to its end as of now."""
        self._report = report
        self._read_to_end = read_to_end

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever a listing that waits may be served."""
        self._changed = changed

    async def up_to_date(self) -> None:
        """Return when the control topic is followed to its end as of now."""
        if self._read_to_end is not None:
            await self._read_to_end()

    def close(self) -> bool:
        """Stop loading; returns False when a thread does not end by itself, such as one that waits for a store."""
        return self._loader.close()

    # records

    def follow(self, change: RouteChange, timestamp: int) -> None:
        """Follow a record of the control topic, written at `timestamp` (milliseconds).

        Of those before `preload`, only what they come to counts. After it, a version that is new here takes over when
        it is ready; all else is in force at once.
        """
        routing = self.routing
        merchant, reference, revision = change.merchant_id, change.adapter, change.revision
        if not self._live:
            routing.apply(change)
            return
        if change.base_fingerprint != routing.base_fingerprint:
            return
        newest = routing.revision(merchant)
        if revision <= newest:
            log.warning("control_record_void", merchant=merchant, revision=revision, newest=newest)
            return
        log.info("route", merchant=merchant, revision=revision, action=change.action, adapter=str(reference))
        version = None if reference is None else self._loader.version(merchant, reference)
        if version is not None and change.action == "assign" and not version.admitted:
            routing.withhold(merchant, version.reference)
        else:
            self._certain[merchant] = revision
            if version is not None and version.state is not State.REFUSED:
                routing.release(merchant, version.reference)
        routing.apply(change)
        self._changed_at[merchant] = revision, timestamp
        if version is None:
            self._say("verified", merchant, revision, None)
        else:
            self._expect(version, revision)
        self._changed()

    def _expect(self, version: Version, revision: int) -> None:
        """Have the version loaded that a record names, or say what is known of it."""
        if self._loader.in_memory(version):
            self._say("verified", version.merchant, revision, version.reference)
        elif version.state is State.REFUSED:
            self._say("refused", version.merchant, revision, version.reference, *version.problem)
        else:
            version.revisions.append(revision)
            if version.state is State.RETRYING:
                self._say("retrying", version.merchant, revision, version.reference, *version.problem)
                version.wanted.set()
            self._loader.load(version)

    async def preload(self, limit_s: float) -> None:
        """Load and try what the routes come to, as much as there is time for: also more than the memory holds, for what
        was tried once is back in no time.

        What is followed from here on are changes while the stream runs.
        """
        self._live = True
        merchants = deque(merchant for merchant, _ in self.routing.merchants())

        async def load_next() -> None:
            while merchants:
                await self._settled(merchants.popleft())

        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.gather(*(load_next() for _ in range(LOADERS)))
        log.info("adapters_loaded", merchants=len(self.routing), left_out=len(merchants), bytes=self._store.held)

    async def _settled(self, merchant: str) -> None:
        """Return when it is known what serves the merchant: the newest version that is not refused."""
        while True:
            state = self.routing.merchant(merchant)
            for reference in state.versions[: 2 if state.canary else 1]:
                version = self._loader.version(merchant, reference)
                self._loader.load(version)
                await version.known.wait()
            if self.routing.merchant(merchant) == state:
                return

    # versions

    def ready(self, version: Version, trial_s: float, news: bool) -> None:
        """Of the loader: the records that assign the version are in force."""
        merchant, reference = version.merchant, version.reference
        self.routing.release(merchant, reference)
        failpoints.reach("flipped")
        state = self.routing.merchant(merchant)
        if state.versions and state.versions[0] == reference:
            self._certain[merchant] = state.revision
        self._metrics.adapter_loads.labels("ready").inc()
        if trial_s:
            self._metrics.adapter_trial_seconds.observe(trial_s)
        if news or version.revisions:
            self._tell(version, "verified", trial_ms=round(1000 * trial_s, 1))
        version.revisions.clear()
        self._changed()

    def refused(self, version: Version) -> None:
        """Of the loader: they never are."""
        self._metrics.adapter_loads.labels("refused").inc()
        self._metrics.adapter_refusals.labels(version.problem[0]).inc()
        self._tell(version, "refused")  # under the revision that is lost next
        self.routing.withhold(version.merchant, version.reference)
        version.revisions.clear()
        self._changed()

    def in_trouble(self, version: Version, news: bool) -> None:
        """Of the loader: what serves now serves on; listings that wait for the version do not wait longer."""
        self._metrics.adapter_loads.labels("retried").inc()
        if news:
            self._tell(version, "retrying")
            self._changed()

    def _tell(self, version: Version, state: WorkerState, **fields: object) -> None:
        """Log and report a version's new state, to each record that waits for it."""
        reason, detail = (None, None) if state == "verified" else version.problem
        say = log.info if state == "verified" else log.warning
        if reason is not None:
            fields |= {"reason": reason, "message": detail}
        revisions = version.revisions or [self.routing.merchant(version.merchant).revision]
        say(
            f"adapter_{state}",
            merchant=version.merchant,
            adapter=str(version.reference),
            revision=revisions[-1],
            **fields,
        )
        for revision in revisions:
            self._say(state, version.merchant, revision, version.reference, reason, detail)

    def _say(
        self,
        state: WorkerState,
        merchant: str,
        revision: int,
        reference: Reference | None,
        reason: str | None = None,
        detail: str | None = None,
    ) -> None:
        if self._report is not None:
            self._report(state, merchant, revision, reference, reason, detail)

    # listings

    def prefetch(self, listings: Sequence[Listing]) -> None:
        """Begin to load what serves these listings, which wait in the queue."""
        for listing in listings:
            reference = self.routing.route(listing.merchant_id, listing.product_id).reference
            if reference is not None:
                version = self._loader.version(listing.merchant_id, reference)
                if not self._loader.in_memory(version):
                    self._loader.load(version)

    def lease(self) -> "Lease":
        """For a batch that is about to be formed."""
        lease = Lease(self)
        self._leases.add(lease)
        return lease

    def serve(self, lease: "Lease", listing: Listing, expired: bool) -> Served | None:
        """What tags a listing; None to let it wait. One that has expired waits for room only, not for a version."""
        merchant = listing.merchant_id
        route = self.routing.route(merchant, listing.product_id)
        if route.reference is None:
            return self._hold(lease, self._tagger.default, route.revision)
        version = self._loader.version(merchant, route.reference)
        if version.state is State.READY:
            served = self._resident(lease, route.reference.digest, route.revision)
            adapter = self._store.cached(route.reference) if served is None else None
            if adapter is not None:
                served = self._hold(lease, adapter, route.revision)
            if served is not None and not served.flags and self._used.get(merchant, 0) < route.revision:
                self._used[merchant] = route.revision
                lease.first.append((merchant, route.revision, route.reference))
            if served is not None or adapter is not None:
                return served
        self._loader.load(version)
        if not expired and version.state is not State.RETRYING:
            return None
        return self._fall_back(lease, version, route)

    def _resident(self, lease: "Lease", digest: str, revision: int) -> Served | None:
        """Serve what is on the device and has served before: its files need not be in memory any more."""
        model = self._models.get((digest, revision))
        if model is None:
            return None
        slot = lease.slots.get(digest)
        if slot is None:
            slot = self._tagger.acquire_resident(digest)
            if slot is None:
                return None
            lease.slots[digest] = slot
        return Served(slot, model)

    def _fall_back(self, lease: "Lease", version: Version, route: Route) -> Served | None:
        """The newest of the versions before that are in memory, else the default adapter; the event is flagged."""
        merchant = version.merchant
        revision = route.revision if version.admitted else self._certain.get(merchant, 0)
        adapter, kind = self._tagger.default, "default"
        for reference in route.previous:
            before = self._loader.known(merchant, reference)
            if before is not None and before.admitted and (held := self._store.cached(reference)) is not None:
                adapter, kind = held, "previous"
                break
        served = self._hold(lease, adapter, revision, (FALLBACK,))
        if served is not None:
            self._metrics.adapter_fallbacks.labels(kind).inc()
        return served

    def _hold(self, lease: "Lease", adapter: Adapter, revision: int, flags: tuple[str, ...] = ()) -> Served | None:
        slot = lease.slots.get(adapter.digest)
        if slot is None:
            slot = self._tagger.acquire(adapter)
            if slot is None:
                if lease.slots or len(self._leases) > 1:
                    self._short_of_room = True
                    return None  # there will be some when a batch is done
                log.error("adapter_too_large", adapter=adapter.card.name, version=adapter.card.version)
                return self._hold(lease, self._tagger.default, revision, (FALLBACK,))
            lease.slots[adapter.digest] = slot
        key = adapter.digest, revision
        model = self._models.get(key)
        if model is None:
            if len(self._models) >= REMEMBERED_MODELS:
                self._models.clear()
            model = self._models[key] = self._tagger.model_of(adapter, revision)
        return Served(slot, model, flags)

    def give_back(self, lease: "Lease") -> bool:
        """Release a lease's slots, from any thread; whether there were any."""
        slots, lease.slots = lease.slots, {}
        for slot in slots.values():
            self._tagger.release(slot)
        self._leases.discard(lease)
        return bool(slots)

    def released(self, first: Sequence[tuple[str, int, Reference]]) -> None:
        """Let what waits for room go on, and say that these revisions have tagged their first listing."""
        if self._short_of_room:
            self._short_of_room = False
            self._changed()
        for merchant, revision, reference in first:
            self._say("in_use", merchant, revision, reference)
            newest, timestamp = self._changed_at.get(merchant, (0, 0))
            if newest == revision:
                self._metrics.adapter_swap_seconds.observe(max(0, now_ms() - timestamp) / 1000)


class Lease:
    """The slots of one batch, from its forming until the device has finished it."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._loop = asyncio.get_running_loop()
        self.slots: dict[str, Any] = {}  # by the adapter's digest
        self.first: list[tuple[str, int, Reference]] = []  # what tags its first listing in this batch

    def serve(self, listing: Listing, expired: bool) -> Served | None:
        """As `Adapters.serve`."""
        return self._adapters.serve(self, listing, expired)

    def release(self) -> None:
        """Give the slots back; again: nothing. From any thread."""
        if not self._adapters.give_back(self):
            return
        first, self.first = self.first, []
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(self._adapters.released, first)
