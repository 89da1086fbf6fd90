"""Micro-batches: by number, by padded tokens, by time since the first event; and the rows that wait beside them."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Intake(Generic[T]):
    """What was read and is not yet in a batch, bounded in number; one task adds, one gathers.

    What waits beside the batches counts against the bound: `aside`.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._aside = 0
        self._items: deque[tuple[T, float]] = deque()
        self._wanted = 1
        self._woken = False
        self._ready: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def add(self, item: T) -> None:
        """Append an item; waits while the intake is full."""
        while len(self._items) + self._aside >= self._size:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._items.append((item, time.monotonic()))
        if self._ready is not None and len(self._items) >= self._wanted:
            _wake(self._ready)

    def aside(self, count: int) -> None:
        """Say how many of the items that were gathered wait beside the batches."""
        self._aside = count
        if self._room is not None:
            _wake(self._room)

    def wake(self) -> None:
        """Let `gather` return with what there is, be it nothing: something that waits aside may go on."""
        self._woken = True
        if self._ready is not None:
            _wake(self._ready)

    async def gather(self, limit: int, wait_s: float) -> tuple[list[T], float]:
        """Up to `limit` items, at the latest `wait_s` seconds after the first of them was added, or when woken.

        Returns the items, oldest first, and the seconds that the oldest has waited.
        """
        if not self._items and not self._woken:
            await self._until(1, None)
        first = self._items[0][1] if self._items else time.monotonic()
        wanted = min(limit, self._size)
        if not self._woken and len(self._items) < wanted and time.monotonic() < first + wait_s:
            await self._until(wanted, first + wait_s)
        self._woken = False
        batch = [self._items.popleft()[0] for _ in range(min(limit, len(self._items)))]
        if self._room is not None:
            _wake(self._room)
        return batch, time.monotonic() - first

    async def _until(self, count: int, deadline: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._wanted = count
        self._ready = ready = loop.create_future()
        timer = None if deadline is None else loop.call_later(deadline - time.monotonic(), _wake, ready)
        try:
            await ready
        finally:
            self._ready = None
            if timer is not None:
                timer.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Row(Protocol):
    """What a batch is made of."""

    @property
    def tokens(self) -> int:
        """Padded tokens; 0 for what needs no model call."""

    @property
    def product(self) -> Hashable | None:
        """Whose order it must keep; None: nobody's."""


R = TypeVar("R", bound=Row)


class _Waiting(NamedTuple, Generic[R]):
    row: R
    until: float
    timed: bool = True  # False: its time changes nothing, because it has expired or stands behind another row


class Former(Generic[R]):
    """Forms batches of at most `listings` rows and `tokens` padded tokens; a row larger than that stands alone.

    A row that cannot be served yet waits aside, and later rows of its product behind it, nobody else. After `wait_s`
    seconds it is expired: whoever serves it should take what is there.
    """

    def __init__(self, listings: int, tokens: int, wait_s: float) -> None:
        self._listings = listings
        self._tokens = tokens
        self._wait_s = wait_s
        self._aside: deque[_Waiting[R]] = deque()
        self.full = False  # the batch formed last was, so that some of those aside may not have been tried

    def __len__(self) -> int:
        """Rows that wait aside."""
        return len(self._aside)

    def due(self) -> float | None:
        """When the next row that waits aside expires (`time.monotonic`), be it now; None for none."""
        return min((waiting.until for waiting in self._aside if waiting.timed), default=None)

    def form(self, rows: deque[R], serve: Callable[[R, bool], R | None]) -> list[R]:
        """Form the next batch of the rows aside and of `rows`, which are taken out.

        `serve` is asked for each row whether it may go, with whether it has expired: the row as it goes, None to wait.
        """
        now = time.monotonic()
        batch: list[R] = []
        room = self._tokens
        aside, self._aside = self._aside, deque()
        behind: set[Hashable] = set()
        self.full = False

        def take(row: R, until: float) -> bool:
            nonlocal room
            if batch and (len(batch) >= self._listings or row.tokens > room):
                self.full = True
                return False
            served = None
            first = row.product is None or row.product not in behind
            if first:
                served = serve(row, until <= now)
            if served is None:
                self._aside.append(_Waiting(row, until, timed=first and until > now))
                behind.add(row.product)
            else:
                batch.append(served)
                room -= served.tokens
            return True

        while aside and take(*aside[0][:2]):
            aside.popleft()
        self._aside.extend(aside)
        while not self.full and rows and take(rows[0], now + self._wait_s):
            rows.popleft()
        return batch
