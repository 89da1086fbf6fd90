"""The watchdog's findings, with a consumer that says what the test wants; real ones are in tests/faults."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streamer import watchdog
from streamer.errors import BrokerError, NotFetched
from streamer.flow import Progress
from streamer.settings import Settings
from streamer.watchdog import Watchdog

STALL_S = 1.0
A, B = TP("in", 0), TP("in", 1)


class Consumer:
    """Fetches answered when the test says so."""

    def __init__(self) -> None:
        self.fetches: dict[TP, int | None] = {B: None, A: None}  # whoever looks finds B first
        self.failure: Exception | None = None

    def check_group(self) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Consumer:
    """Looked at a hundred times a second."""
    monkeypatch.setattr(watchdog, "WATCH_S", 0.01)
    return Consumer()


def watching(consumer: Consumer) -> "asyncio.Task[Any]":
    """A watchdog of it at work, beside a broker that answers."""

    async def alive() -> bool:
        return True

    delivery: Any = SimpleNamespace(alive=alive)
    return asyncio.create_task(Watchdog(Settings(stall_s=STALL_S), delivery, Progress(), lambda: consumer).run())


async def test_a_partition_whose_fetches_are_answered_is_none_that_stalls(consumer: Consumer) -> None:
    """However idle it is; and the one beside it that is not answered is named."""
    task = watching(consumer)
    for answer in range(1000):
        consumer.fetches[B] = answer
        await asyncio.sleep(STALL_S / 20)
        if task.done():
            break
    with pytest.raises(NotFetched, match=r"in/0: no fetch answered for 1 s"):
        await task


async def test_a_partition_that_was_away_begins_anew(consumer: Consumer) -> None:
    """Revoked, paused, or with records that wait to be handed over: nobody ought to fetch it then."""
    task = watching(consumer)
    for _ in range(3):
        consumer.fetches = {A: 1}
        await asyncio.sleep(STALL_S / 2)
        consumer.fetches = {}
        await asyncio.sleep(STALL_S / 4)
    assert not task.done()
    task.cancel()


async def test_what_ended_its_part_in_the_group_ends_the_worker(consumer: Consumer) -> None:
    """Faust would go on for ever with what nobody commits."""
    consumer.failure = BrokerError("the consumer has left its group")
    with pytest.raises(BrokerError, match="left its group"):
        await watching(consumer)
