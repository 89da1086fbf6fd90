"""Admission: whether an adapter may serve a merchant.

One function asks everything, for whoever publishes a version and for each worker that is told to serve it: what is
refused by its content is refused everywhere, for the same reason. What can be said of an adapter without a base and a
merchant (format, sizes, PEFT's settings, finite values, the tag set) `taggen.adapter.parse` has said by then.
"""

from typing import Protocol

from taggen.adapter import EVERY_MERCHANT, Adapter
from taggen.errors import AdapterError
from taggen.reference import Reference


class Engine(Protocol):
    """What admission asks of a tagger."""

    def check(self, adapter: Adapter) -> None:
        """Raise AdapterError when base, layers or shapes do not fit (reasons `base`, `shapes`)."""

    def smoke(self, adapter: Adapter) -> None:
        """Tag a fixed listing; raise AdapterError for scores that are not finite (reason `smoke`)."""


def admit(adapter: Adapter, reference: Reference, merchant: str, engine: Engine) -> None:
    """Raise AdapterError, whose `reason` says why, unless this adapter is the one that the reference names, is made for
    this merchant or for all, and works on this base.

    The cheap questions come first; the last one runs the model.
    """
    card = adapter.card
    if adapter.digest != reference.digest:
        raise AdapterError(f"adapter {reference}: digest {adapter.digest}, not {reference.digest}", "digest")
    if (card.name, card.version) != (reference.name, reference.version):
        raise AdapterError(f"adapter {reference}: its card says {card.name} {card.version}", "name")
    if card.merchant not in (EVERY_MERCHANT, merchant):
        raise AdapterError(f"adapter {reference} was made for merchant {card.merchant}, not for {merchant}", "merchant")
    engine.check(adapter)
    engine.smoke(adapter)
