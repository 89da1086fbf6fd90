"""Who is served by what: the fold of the control topic.

Pure: the same records in the same order come to the same routing in every worker. Records are applied one by one; a
route is looked up for each listing. What a worker finds of a version (refused by its content, or not yet checked)
takes the records that assign it out of the fold: then what was before serves, under the revision that it had.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from typing import Literal, NamedTuple

from taggen.reference import Reference

Action = Literal["assign", "rollback", "retire"]

KEPT = 8  # versions of a merchant that are remembered to fall back to


class Canary(NamedTuple):
    """A version for a share of a merchant's products, 0 to 1. Kept over a ramp, `id` makes it only add products."""

    share: float
    id: str

    def takes(self, merchant_id: str, product_id: str) -> bool:
        """Whether the product is among them: the hash of it and the id lies below the share."""
        digest = hashlib.sha256(json.dumps([self.id, merchant_id, product_id]).encode()).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


class RouteChange(NamedTuple):
    """A record of the control topic; `issued_at` in milliseconds. Held by a test to merchant-adapter.avsc."""

    merchant_id: str
    base_fingerprint: str
    revision: int
    action: Action
    adapter: Reference | None
    canary: Canary | None
    issued_at: int


class Route(NamedTuple):
    """What serves a listing: a version (None: the default adapter), the revision that says so, and what may serve until
    the version is ready, newest first."""

    reference: Reference | None
    revision: int
    previous: tuple[Reference, ...]


class MerchantRoute(NamedTuple):
    """A merchant's state: the versions that are valid, newest first, and the canary that the first one is, if it is.

    A version that was rolled back or retired is not among them until it is assigned again.
    """

    revision: int
    versions: tuple[Reference, ...]
    canary: Canary | None

    def after(self, change: RouteChange) -> "MerchantRoute":
        """The state after a valid record. A rollback to a version that is not known (any more) withdraws all others."""
        match change.action, change.adapter:
            case "assign", Reference() as adapter:
                served = (
                    self.versions[1:] if self.canary else self.versions
                )  # a canary that is replaced never served all
                earlier = tuple(version for version in served if version != adapter)
                return MerchantRoute(change.revision, (adapter, *earlier[:KEPT]), change.canary)
            case "rollback", Reference() as adapter:
                kept = self.versions[self.versions.index(adapter) :] if adapter in self.versions else (adapter,)
                return MerchantRoute(change.revision, kept, None)
            case _:  # to the default adapter
                return MerchantRoute(change.revision, (), None)

    def route(self, merchant_id: str, product_id: str, replay: bool) -> Route:
        """What serves a product."""
        versions = self.versions
        if self.canary and (replay or not self.canary.takes(merchant_id, product_id)):
            versions = versions[1:]
        return Route(versions[0] if versions else None, self.revision, versions[1:])

    def without(self, withheld: frozenset[Reference]) -> "MerchantRoute":
        """The state with some versions gone."""
        if not withheld or withheld.isdisjoint(self.versions):
            return self
        canary = None if self.versions[0] in withheld else self.canary
        return MerchantRoute(self.revision, tuple(one for one in self.versions if one not in withheld), canary)


_UNROUTED = MerchantRoute(0, (), None)


class _Merchant:
    """A merchant's records: the state that they come to, and the last of them to come to it again without some."""

    __slots__ = ("newest", "recent", "state", "withheld")

    def __init__(self) -> None:
        self.newest = 0  # revision, of a record that is withheld too
        self.recent: deque[tuple[MerchantRoute, RouteChange]] = deque(maxlen=KEPT)  # each with the state before it
        self.withheld: frozenset[Reference] = frozenset()
        self.state = _UNROUTED

    def apply(self, change: RouteChange) -> None:
        self.newest = change.revision
        self.recent.append((self.state, change))
        self.state = self._step(self.state, change)

    def withhold(self, versions: frozenset[Reference]) -> None:
        self.withheld = versions
        changes = [change for _, change in self.recent]
        self.state = (self.recent[0][0] if self.recent else self.state).without(versions)
        self.recent.clear()
        for change in changes:
            self.recent.append((self.state, change))
            self.state = self._step(self.state, change)

    def _step(self, state: MerchantRoute, change: RouteChange) -> MerchantRoute:
        if not self.withheld:
            return state.after(change)
        if change.action == "assign" and change.adapter in self.withheld:
            return state
        return state.after(change).without(self.withheld)


class Routing:
    """The routes of the merchants on one base model."""

    def __init__(self, base_fingerprint: str) -> None:
        self.base_fingerprint = base_fingerprint
        self._merchants: dict[str, _Merchant] = {}

    def apply(self, change: RouteChange) -> bool:
        """Follow a record; False when it is void here: for another base, or its revision is not above the newest."""
        if change.base_fingerprint != self.base_fingerprint or change.revision <= self.revision(change.merchant_id):
            return False
        self._known(change.merchant_id).apply(change)
        return True

    def withhold(self, merchant_id: str, version: Reference) -> None:
        """Leave out the records that assign this version to the merchant, those to come too, until it is released."""
        merchant = self._known(merchant_id)
        merchant.withhold(merchant.withheld | {version})

    def release(self, merchant_id: str, version: Reference) -> None:
        """Follow those records after all."""
        merchant = self._known(merchant_id)
        if version in merchant.withheld:
            merchant.withhold(merchant.withheld - {version})

    def route(self, merchant_id: str, product_id: str, replay: bool = False) -> Route:
        """What serves a product's listing; a replay leaves canaries out. Revision 0: the merchant was never routed."""
        return self.merchant(merchant_id).route(merchant_id, product_id, replay)

    def merchant(self, merchant_id: str) -> MerchantRoute:
        """A merchant's state; revision 0 and no versions for one that was never routed."""
        merchant = self._merchants.get(merchant_id)
        return _UNROUTED if merchant is None else merchant.state

    def revision(self, merchant_id: str) -> int:
        """The newest valid revision of a merchant, be it withheld, 0 for none."""
        merchant = self._merchants.get(merchant_id)
        return 0 if merchant is None else merchant.newest

    def merchants(self) -> Iterator[tuple[str, MerchantRoute]]:
        """Every merchant that was ever routed, in the order of their first records."""
        return ((merchant_id, merchant.state) for merchant_id, merchant in self._merchants.items())

    def _known(self, merchant_id: str) -> _Merchant:
        merchant = self._merchants.get(merchant_id)
        if merchant is None:
            merchant = self._merchants[merchant_id] = _Merchant()
        return merchant

    def __len__(self) -> int:
        return len(self._merchants)
