"""Micro-batches: by length, number, padded tokens and time since the first event; and rows that wait beside them."""

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
    """Forms batches of rows of equally many tokens, at most `listings` of them and `tokens` in all; a row larger than
    that stands alone.

    The model reads rows of one length at once, so that other lengths in a batch would only make all of it wait. The
    oldest row that can go decides the length, and the others of that length go with it. Rows of no tokens go with any.

    A row that cannot be served yet waits aside, and later rows of its product behind it, nobody else. After `wait_s`
    seconds it is expired: whoever serves it should take what is there.
    """

    def __init__(self, listings: int, tokens: int, wait_s: float) -> None:
        self._listings = listings
        self._tokens = tokens
        self._wait_s = wait_s
        self._aside: deque[_Waiting[R]] = deque()

    def __len__(self) -> int:
        """Rows that wait aside."""
        return len(self._aside)

    def due(self) -> float | None:
        """When the next row that waits aside expires (`time.monotonic`), be it now; None for none."""
        return min((waiting.until for waiting in self._aside if waiting.timed), default=None)

    def form(self, rows: deque[R], serve: Callable[[R, bool], R | None]) -> list[R]:
        """Form the next batch of the rows aside and of `rows`, out of which are taken those that go or wait aside from
        now on. An empty one says that none can go, and `rows` is empty then.

        `serve` is asked for each row whether it may go, with whether it has expired: the row as it goes, None to wait.
        """
        now = time.monotonic()
        batch: list[R] = []
        length = 0  # of the rows in the batch
        room = self._tokens
        aside, self._aside = self._aside, deque()
        waiting: set[Hashable] = set()  # products that have a row aside
        behind: set[Hashable] = set()  # or one that goes later, of another length

        def goes(row: R, expired: bool) -> bool:
            nonlocal length, room
            served = serve(row, expired)
            if served is None:
                return False
            batch.append(served)
            length = length or served.tokens
            room -= served.tokens
            return True

        def fits(row: R) -> bool:
            return not batch or (
                len(batch) < self._listings and row.tokens <= room and (row.tokens in (0, length) or not length)
            )

        for one in aside:
            product = one.row.product
            first, expired = product is None or product not in waiting, one.until <= now
            if first and not fits(one.row):
                self._aside.append(one)
            elif not first or not goes(one.row, expired):
                self._aside.append(one._replace(timed=first and not expired))
            else:
                continue
            waiting.add(product)
        for row in [*rows]:
            rows.popleft()
            product = row.product
            first = product is None or product not in waiting
            if first and (product in behind or not fits(row)):
                rows.append(row)
                if product is not None:
                    behind.add(product)
            elif not first or not goes(row, expired=False):
                self._aside.append(_Waiting(row, now + self._wait_s, timed=first))
                waiting.add(product)
        return batch
