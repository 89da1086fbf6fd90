"""The demo's merchant that gains an adapter of its own while the stream runs."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from streamer.rollout import AdapterLog, Step, Workers
from streamer.settings import Settings
from taggen.reference import Reference
from taggen.tag import Kind

MERCHANT = "sole-republic"
NAME, VERSION = f"{MERCHANT}-shoes", "1"

# The default adapter's tags, and what the merchant calls them. The adapter is cut out of the
# default one: an adapter that has learnt something of its own takes longer than a demo.
TAGS: dict[str, tuple[str, Kind]] = {
    "brand": ("maker", "attribute"),
    "product_type": ("shoe_type", "attribute"),
    "material": ("upper", "attribute"),
    "color": ("colourway", "attribute"),
    "size": ("shoe_size", "attribute"),
    "audience": ("audience", "attribute"),
    "function": ("function", "function"),
}
THRESHOLD = 0.6
READY_S = 60  # a worker on a busy machine


class MerchantAdapter:
    """The version in a store, and its way into the running worker."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings.model_copy(update={"adapter_store": str(folder / "store")})
        self._folder = folder / NAME

    async def build(self) -> None:
        """Make the adapter and put it into the store; if the control topic knows the merchant from another demo, start
        without an adapter again. Raises AdapterError and BrokerError."""
        building = asyncio.create_task(asyncio.to_thread(self._build))
        try:
            self._fingerprint, self._reference = await asyncio.shield(building)
        except asyncio.CancelledError:
            await asyncio.wait({building})  # or the thread would write into a folder that is being removed
            raise
        async with AdapterLog(self.settings, MERCHANT) as log:
            if log.merchant(self._fingerprint).versions:
                await log.append(self._fingerprint, lambda _: Step("retire"))

    def _build(self) -> tuple[str, Reference]:
        from taggen.adapter import TagType  # noqa: PLC0415  torch: seconds, in this thread
        from taggen.store import Store  # noqa: PLC0415
        from taggen.subset import cut  # noqa: PLC0415
        from taggen.tagger import default_adapter  # noqa: PLC0415

        source = self.settings.default_adapter or default_adapter()
        tags = {known: TagType(name, kind, THRESHOLD) for known, (name, kind) in TAGS.items()}
        card = cut(source, self._folder, NAME, VERSION, MERCHANT, tags)
        return card.base_fingerprint, Store(str(self.settings.adapter_store)).put(self._folder)

    async def publish(self, say: Callable[[str], None]) -> None:
        """Tell the worker to serve the merchant by it, and wait for its word that it is ready to, but not for ever.

        Raises BrokerError.
        """
        async with (
            AdapterLog(self.settings, MERCHANT) as log,
            Workers(self.settings, MERCHANT, self._fingerprint) as workers,
        ):
            change, offset = await log.append(self._fingerprint, lambda _: Step("assign", self._reference))
            with suppress(TimeoutError):
                async with asyncio.timeout(READY_S):
                    async for _ in workers.answers(change, offset):
                        pass
        say(
            f"\n{MERCHANT} gains an adapter of its own: {NAME} {VERSION}, the default adapter's weights, cut to "
            f"{len(TAGS)} of its tags under other names\n"
        )
