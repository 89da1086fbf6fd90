"""The newest listing version per product that this worker remembers."""

from collections import OrderedDict


class Versions:
    """A bounded memory, least recently seen out first. It tells what arrives late across `product-created` and
    `product-updated`; what it has forgotten counts as new."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._newest: OrderedDict[tuple[str, str], int] = OrderedDict()

    def observe(self, merchant_id: str, product_id: str, version: int) -> bool:
        """Remember this version; True when a newer one of the same product was seen before."""
        product = (merchant_id, product_id)
        newest = self._newest.get(product, version)
        self._newest[product] = max(newest, version)
        self._newest.move_to_end(product)
        if len(self._newest) > self._limit:
            self._newest.popitem(last=False)
        return version < newest

    def __len__(self) -> int:
        return len(self._newest)
