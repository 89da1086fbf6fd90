"""What the agent's tasks hand to each other, and what they need of others."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from streamer.acknowledge import Acknowledgements
from streamer.batch import Intake
from streamer.pipeline import Entry, Job, Outcome, Rejected, Served, Stage
from taggen.listing import Listing

BATCHES_IN_MODEL = 2  # one that it reads, and one ready behind it
BATCHES_IN_HAND = BATCHES_IN_MODEL + 1  # one is being delivered


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
    prepare_s: float  # what it took to prepare the rows that it came with

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


class Flow:
    """What the tasks of one stream share: events that were read, and the batches in hand, in order.

    One task puts batches, and waits; another one takes them and says when they are done.
    """

    def __init__(self, stream: Any, intake: Intake[Any]) -> None:
        self.stream = stream
        self.intake = intake
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()
        self._in_hand = self._in_model = 0
        self._less = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether another batch would only stand behind others: the intake is woken when it would not any more."""
        return self._in_hand >= BATCHES_IN_HAND or self._in_model >= BATCHES_IN_MODEL

    async def at_most(self, batches: int) -> None:
        """Return when so many are in hand, or fewer."""
        while self._in_hand > batches:
            self._less.clear()
            await self._less.wait()

    def put(self, batch: Batch) -> None:
        """Hand a batch over that is on its way to the model."""
        self._in_hand += 1
        self._in_model += 1
        batch.tagged.add_done_callback(self._tagged)
        self.batches.put_nowait(batch)

    def _tagged(self, _: object) -> None:
        self._in_model -= 1
        self.intake.wake()

    def done(self) -> None:
        """A batch is acknowledged."""
        self._in_hand -= 1
        self._less.set()
        self.intake.wake()
