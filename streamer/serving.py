"""Who is served by what in a replay: the routes as they are at its start, or one version for everybody.

A worker tags at once and waits for no adapter longer than a moment; a replay has time: it loads what a route names and
tries again when the store does not answer. Canaries are for live traffic and take no part.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import structlog

from streamer.codec import Codec
from streamer.control import Control
from streamer.errors import InputError
from streamer.loading import AdapterTagger
from streamer.pipeline import FALLBACK
from streamer.routing import RouteChange, Routing
from streamer.settings import Settings
from streamer.stages import Choice
from taggen.adapter import Adapter
from taggen.admission import admit
from taggen.errors import AdapterError, StoreUnavailable
from taggen.listing import Listing
from taggen.reference import Reference
from taggen.store import Store

LATEST, DEFAULT = "latest", "default"  # what --adapter takes besides NAME/VERSION
RETRY_S = 1.0

log = structlog.get_logger(__name__)


class Serving:
    """Chooses the adapter of each listing; `choose` blocks while it loads one."""

    def __init__(
        self, settings: Settings, codec: Codec, tagger: AdapterTagger, adapter: str, model_thread: ThreadPoolExecutor
    ) -> None:
        """`adapter`: `latest` follows the routes, `default` leaves them, NAME/VERSION is for all listings."""
        self._settings = settings
        self._codec = codec
        self._tagger = tagger
        self._asked = adapter
        self._model_thread = model_thread
        self._store = Store(settings.adapter_store, settings.adapter_cache_bytes) if settings.adapter_store else None
        self._routing = Routing(tagger.default.card.base_fingerprint)
        self._published: dict[str, Reference] = {}  # NAME/VERSION → the version, of all that a route ever named
        self._admitted: dict[tuple[str, Reference], bool] = {}  # by merchant; False: refused by its content

    async def start(self) -> None:
        """Read the routes. Raises InputError for a version that no route has ever named."""
        if self._asked == DEFAULT or (self._asked == LATEST and self._store is None):
            return
        if self._store is None:
            raise InputError(f"--adapter {self._asked}: STREAMER_ADAPTER_STORE names no store to load it from")
        control = Control(self._settings, self._codec, self._follow)
        try:
            await control.start()
        finally:
            await control.stop()
        if self._asked != LATEST and self._asked not in self._published:
            raise InputError(f"--adapter {self._asked}: no record of {self._settings.adapters_topic} names it")

    def _follow(self, change: RouteChange, _: int) -> None:
        self._routing.apply(change)
        if change.adapter is not None:
            self._published[f"{change.adapter.name}/{change.adapter.version}"] = change.adapter

    async def choose(self, listing: Listing) -> Choice:
        """What tags a listing. Raises AdapterError when it was to be one version and that is not for its merchant,
        StoreUnavailable after `broker_retry_s`."""
        merchant = listing.merchant_id
        if self._store is None or self._asked == DEFAULT:
            return Choice(self._tagger.default, 0)
        if self._asked != LATEST:
            reference = self._published[self._asked]
            adapter = await self._load(merchant, reference)
            if adapter is None:
                raise AdapterError(f"--adapter {self._asked}: not for merchant {merchant}", "merchant")
            return Choice(adapter, self._routing.revision(merchant))
        route = self._routing.route(merchant, listing.product_id, replay=True)
        if route.reference is None:
            return Choice(self._tagger.default, route.revision)
        for reference in (route.reference, *route.previous):
            adapter = await self._load(merchant, reference)
            if adapter is not None:
                return Choice(adapter, route.revision, () if reference is route.reference else (FALLBACK,))
        return Choice(self._tagger.default, route.revision, (FALLBACK,))

    async def _load(self, merchant: str, reference: Reference) -> Adapter | None:
        """The version, admitted for the merchant; None for one that is refused."""
        store, known = self._store, self._admitted.get((merchant, reference))
        if store is None or known is False:
            return None
        if known and (cached := store.cached(reference)) is not None:
            return cached
        deadline = time.monotonic() + self._settings.broker_retry_s
        while True:
            try:
                adapter = await asyncio.to_thread(store.load, reference)
                if known is None:
                    await asyncio.to_thread(admit, adapter, reference, merchant, self)
            except AdapterError as error:
                log.warning("adapter_refused", merchant=merchant, adapter=str(reference), reason=error.reason)
                self._admitted[merchant, reference] = False
                return None
            except StoreUnavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                self._admitted[merchant, reference] = True
                return adapter

    def check(self, adapter: Adapter) -> None:
        """As admission asks for it."""
        self._tagger.check(adapter)

    def smoke(self, adapter: Adapter) -> None:
        """As admission asks for it, on the model's thread."""
        self._tagger.smoke(adapter, lambda call: self._model_thread.submit(call).result())
