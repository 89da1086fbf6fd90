"""What the agent's tasks hand to each other, and what they need of others."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from streamer.acknowledge import Acknowledgements
from streamer.pipeline import Entry, Job, Outcome, Rejected, Served, Stage
from taggen.listing import Listing

BATCHES_IN_HAND = 3  # one in the model, one ready behind it, one being delivered


class Lease(Protocol):
    """The slots of one batch."""

    def serve(self, listing: Listing, expired: bool) -> Served | None:
        """What tags a listing, None to let it wait; one that has expired waits for no adapter, only for room."""

    def release(self) -> None:
        """Give the slots back; called when the device has finished, from any thread."""


class Adapters(Protocol):
    """What the agent needs of `streamer.adapters.Adapters`."""

    async def up_to_date(self) -> None:
        """Return when the control topic is read to its end as of now."""

    def prefetch(self, listings: Sequence[Listing]) -> None:
        """Begin to load what serves these listings."""

    def lease(self) -> Lease:
        """For a batch that is about to be formed."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever a row that waits may go on."""


@dataclass
class Progress:
    """How far the agent is; the watchdog and the lag metric read it."""

    in_hand: int = 0
    acknowledgements: Acknowledgements = field(default_factory=Acknowledgements)
    finished: dict[tuple[str, int], int] = field(default_factory=dict)  # partition → last acknowledged offset


class Row(NamedTuple):
    """An event and what became of it so far."""

    event: Any
    entry: Entry
    read: float  # seconds since 1970

    @property
    def tokens(self) -> int:
        """Padded tokens of its model call."""
        return self.entry.tokens

    @property
    def product(self) -> tuple[str, str] | None:
        """Whose outputs leave in the order of its inputs."""
        entry = self.entry
        return None if isinstance(entry, Rejected) else (entry.listing.merchant_id, entry.listing.product_id)


class Batch(NamedTuple):
    """A micro-batch on its way; `tagged` resolves to its outcomes and when the model made them."""

    rows: Sequence[Row]
    tagged: asyncio.Future[tuple[list[Outcome], Stage]]
    formed: float  # seconds since 1970
    queue_s: float
    prepare_s: float

    @property
    def tokens(self) -> int:
        """With padding."""
        return sum(row.tokens for row in self.rows)

    @property
    def padding(self) -> int:
        """Of the tokens."""
        jobs = [row.entry for row in self.rows if isinstance(row.entry, Job)]
        return sum(job.tokens - job.prepared.filled for job in jobs)


class Flow(NamedTuple):
    """What the tasks of one stream share."""

    stream: Any
    batches: asyncio.Queue[Batch]
    permits: asyncio.Semaphore

    async def emptied(self) -> None:
        """Return when no batch is in hand; for the task that takes the permits."""
        for _ in range(BATCHES_IN_HAND):
            await self.permits.acquire()
        for _ in range(BATCHES_IN_HAND):
            self.permits.release()
