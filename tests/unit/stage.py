"""The merchants' adapters of a worker under test, with stand-ins for store, model and log."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from streamer.adapters import Adapters, Lease
from streamer.metrics import Metrics
from streamer.modelthread import ModelThread
from streamer.pipeline import Served
from streamer.routing import Canary, RouteChange
from taggen.adapter import Card, TagType
from taggen.errors import AdapterError, StoreUnavailable
from taggen.listing import Listing
from taggen.reference import Reference
from taggen.tag import Model
from tests.unit.fakes import MODEL, FakeTagger

BASE = "f" * 64
TAG_SET = (TagType("brand", "attribute"),)
SOON_S = 5.0


@dataclass(frozen=True)
class FakeAdapter:
    """What of an adapter is asked for."""

    card: Card
    digest: str
    nbytes: int = 1


def version(number: int) -> Reference:
    """A version of the adapter that most tests use."""
    return Reference("shoes", str(number), f"{number:064x}")


ONE, TWO, THREE = version(1), version(2), version(3)
DEFAULT = FakeAdapter(Card("default", "1", "*", "base", BASE, TAG_SET), "d" * 64)


class FakeStore:
    """Versions for all merchants; some are broken, some cannot be had now, some take until they are let go."""

    def __init__(self, cached: int = 100) -> None:
        self.broken: set[Reference] = set()
        self.gone: set[Reference] = set()
        self.loads: list[Reference] = []
        self.gate: Callable[[], None] = lambda: None
        self._limit = cached
        self._cached: dict[Reference, FakeAdapter] = {}

    @property
    def held(self) -> int:
        return len(self._cached)

    def cached(self, reference: Reference) -> FakeAdapter | None:
        return self._cached.get(reference)

    def load(self, reference: Reference) -> FakeAdapter:
        self.loads.append(reference)
        self.gate()
        if reference in self.gone:
            raise StoreUnavailable("gone")
        if reference in self.broken:
            raise AdapterError("broken", "values")
        card = Card(reference.name, reference.version, "*", "base", BASE, TAG_SET)
        while len(self._cached) >= self._limit:
            del self._cached[next(iter(self._cached))]
        adapter = self._cached[reference] = FakeAdapter(card, reference.digest)
        return adapter

    def forget(self) -> None:
        """As when others have pushed everything out of the memory."""
        self._cached.clear()


class SlotTagger(FakeTagger):
    """Has so many slots beside the default's; a slot is its adapter's digest."""

    default = DEFAULT
    concurrent = False

    def __init__(self, slots: int = 100) -> None:
        super().__init__()
        self.held: dict[str, int] = {}
        self.resident: set[str] = set()  # said to be on the device, whoever holds them
        self._slots = slots

    def acquire(self, adapter: Any) -> str | None:
        others = self.held.keys() - {DEFAULT.digest, adapter.digest}
        if adapter is not DEFAULT and len(others) >= self._slots:
            return None
        self.held[adapter.digest] = self.held.get(adapter.digest, 0) + 1
        return str(adapter.digest)

    def acquire_resident(self, digest: str) -> str | None:
        if digest not in self.resident:
            return None
        self.held[digest] = self.held.get(digest, 0) + 1
        return digest

    def release(self, slot: str) -> None:
        self.held[slot] -= 1
        assert self.held[slot] >= 0
        if not self.held[slot]:
            del self.held[slot]

    def model_of(self, adapter: Any, revision: int) -> Model:
        return replace(MODEL, adapter=adapter.card.name, version=adapter.card.version, revision=revision)

    def check(self, adapter: Any) -> None:
        if adapter.card.base_fingerprint != BASE:
            raise AdapterError("another base", "base")

    def smoke(self, adapter: Any, run: Any) -> None:
        run(lambda: None)


class Stage:
    """Adapters under test, and what they report."""

    def __init__(self, model_thread: ModelThread, slots: int = 100, cached: int = 100) -> None:
        self.store, self.tagger, self.metrics = FakeStore(cached), SlotTagger(slots), Metrics()
        self.reports: list[tuple[Any, ...]] = []
        self.adapters = Adapters(
            self.tagger,  # type: ignore[arg-type]
            self.store,  # type: ignore[arg-type]
            BASE,
            model_thread,
            self.metrics,
        )
        self.adapters.connect(lambda *report: self.reports.append(report), self._read)  # type: ignore[arg-type]
        self._revision = 0

    async def _read(self) -> None:
        pass

    def follow(self, action: str, adapter: Reference | None = None, canary: Canary | None = None) -> int:
        """A record for acme, with the next revision."""
        self._revision += 1
        change = RouteChange("acme", BASE, self._revision, action, adapter, canary, 0)  # type: ignore[arg-type]
        self.adapters.follow(change, 0)
        return self._revision

    def serve(self, expired: bool = False, lease: Lease | None = None, product: str = "p") -> Served | None:
        """What a listing of acme's is tagged by."""
        own = lease or self.adapters.lease()
        served = own.serve(Listing("acme", product, 1, "Boots"), expired)
        if lease is None:
            own.release()
        return served

    def tags_by(self, reference: Reference | None, revision: int, flags: tuple[str, ...] = ()) -> bool:
        """Whether a listing of acme's is tagged so."""
        served = self.serve()
        if served is None:
            return False
        name = ("default", "1") if reference is None else (reference.name, reference.version)
        model = served.model
        return ((model.adapter, model.version), model.revision, served.flags) == (name, revision, flags)

    async def until(self, happened: Callable[[], bool]) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(SOON_S):
            while not happened():  # noqa: ASYNC110  nothing tells
                await asyncio.sleep(0.001)

    def reported(self, state: str) -> list[int]:
        """The revisions of the reports of a state."""
        return [report[2] for report in self.reports if report[0] == state]
