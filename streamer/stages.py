"""The pipeline's stages as a replay runs them: consecutive records in batches that the limits and the slots take."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

from streamer.pipeline import Entry, Job, Outcome, Pipeline, Served
from streamer.settings import Settings
from taggen.errors import AdapterError
from taggen.listing import Listing


class Choice(NamedTuple):
    """An adapter, the revision that it is served by, and the flags that its events have."""

    adapter: Any
    revision: int
    flags: tuple[str, ...] = ()


class Chooser(Protocol):
    """Who is served by what, as `streamer.serving.Serving`."""

    async def choose(self, listing: Listing) -> Choice:
        """What tags a listing."""


class Stages:
    """The pipeline with its batches: consecutive entries, as many as the limits and the slots take."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        tagger: Any,
        serving: Chooser | None,
        model_thread: ThreadPoolExecutor,
    ) -> None:
        self.prepare = pipeline.prepare
        self.encode = pipeline.encode
        self._settings = settings
        self._pipeline = pipeline
        self._tagger = tagger
        self._serving = serving
        self._model_thread = model_thread

    async def tag(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Run the model over the entries, in order."""
        outcomes: list[Outcome] = []
        batch: list[Entry] = []
        slots: dict[str, Any] = {}  # by the adapter's digest
        room = self._settings.batch_tokens

        async def flush() -> None:
            nonlocal room
            try:
                loop = asyncio.get_running_loop()
                outcomes.extend(await loop.run_in_executor(self._model_thread, self._pipeline.tag, list(batch)))
            finally:
                for slot in slots.values():
                    self._tagger.release(slot)
                slots.clear()
            batch.clear()
            room = self._settings.batch_tokens

        for entry in entries:
            if batch and (len(batch) >= self._settings.batch_listings or entry.tokens > room):
                await flush()
            if self._serving is not None and isinstance(entry, Job):
                choice = await self._serving.choose(entry.listing)
                adapter = choice.adapter
                if adapter.digest not in slots:
                    slot = self._tagger.acquire(adapter)
                    if slot is None and batch:
                        await flush()
                        slot = self._tagger.acquire(adapter)
                    if slot is None:
                        raise AdapterError(f"adapter {adapter.card.name} {adapter.card.version}: no room", "size")
                    slots[adapter.digest] = slot
                model = self._tagger.model_of(adapter, choice.revision)
                entry = entry._replace(served=Served(slots[adapter.digest], model, choice.flags))  # noqa: PLW2901
            batch.append(entry)
            room -= entry.tokens
        if batch:
            await flush()
        return outcomes
