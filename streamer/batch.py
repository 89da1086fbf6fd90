"""Micro-batches: by number, by padded tokens, by time since the first event."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Weighed(Protocol):
    """Anything with a weight in padded tokens; 0 for what needs no model call."""

    @property
    def tokens(self) -> int:
        """Padded tokens."""


W = TypeVar("W", bound=Weighed)


class Intake(Generic[T]):
    """What was read and is not yet in a batch, bounded in number; one task adds, one gathers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[tuple[T, float]] = deque()
        self._wanted = 1
        self._ready: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    async def add(self, item: T) -> None:
        """Append an item; waits while the intake is full."""
        while len(self._items) >= self._size:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self._items.append((item, time.monotonic()))
        if self._ready is not None and len(self._items) >= self._wanted:
            _wake(self._ready)

    async def gather(self, limit: int, wait_s: float) -> tuple[list[T], float]:
        """Up to `limit` items, at the latest `wait_s` seconds after the first of them was added.

        Returns the items, oldest first, and the seconds that the oldest has waited.
        """
        if not self._items:
            await self._until(1, None)
        first = self._items[0][1]
        wanted = min(limit, self._size)
        if len(self._items) < wanted and time.monotonic() < first + wait_s:
            await self._until(wanted, first + wait_s)
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


def cut(entries: Sequence[W], max_tokens: int) -> Iterator[list[W]]:
    """Consecutive groups of at most `max_tokens` padded tokens each; an entry larger than that stands alone."""
    group: list[W] = []
    tokens = 0
    for entry in entries:
        if group and tokens + entry.tokens > max_tokens:
            yield group
            group, tokens = [], 0
        group.append(entry)
        tokens += entry.tokens
    if group:
        yield group
