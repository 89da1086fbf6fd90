"""Micro-batches: the intake's bounds and clock, cutting by tokens."""

import asyncio
import time
from typing import NamedTuple

from streamer.batch import Intake, cut


class Weight(NamedTuple):
    tokens: int


async def test_gather_waits_from_the_first_item_on() -> None:
    """A batch that does not fill goes out after the wait, counted from its first item, with what is there."""
    intake: Intake[int] = Intake(8)
    gathering = asyncio.create_task(intake.gather(4, 0.1))
    await asyncio.sleep(0)
    started = time.monotonic()
    await intake.add(1)
    await intake.add(2)
    items, waited = await gathering
    assert items == [1, 2]
    assert 0.09 < time.monotonic() - started < 1
    assert 0.09 < waited < 1


async def test_gather_does_not_wait_for_more_than_it_wants() -> None:
    """A full batch goes out at once, the rest stays for the next, in order."""
    intake: Intake[int] = Intake(8)
    gathering = asyncio.create_task(intake.gather(3, 60))
    for item in range(5):
        await intake.add(item)
    assert (await asyncio.wait_for(gathering, 1))[0] == [0, 1, 2]
    assert (await intake.gather(3, 0))[0] == [3, 4]


async def test_gather_does_not_wait_again_for_what_has_waited() -> None:
    """Items left over from a busy time count their wait from when they came."""
    intake: Intake[int] = Intake(8)
    await intake.add(1)
    await asyncio.sleep(0.05)
    items, waited = await asyncio.wait_for(intake.gather(4, 0.04), 0.03)
    assert items == [1]
    assert waited > 0.04


async def test_intake_is_bounded() -> None:
    """Adding waits while it is full; a batch larger than the intake is not waited for."""
    intake: Intake[int] = Intake(2)
    await intake.add(1)
    await intake.add(2)
    third = asyncio.create_task(intake.add(3))
    await asyncio.sleep(0)
    assert not third.done()
    assert (await asyncio.wait_for(intake.gather(8, 60), 1))[0] == [1, 2]
    await asyncio.wait_for(third, 1)
    assert (await intake.gather(8, 0))[0] == [3]


def test_cut_keeps_order_and_limit() -> None:
    """Consecutive groups up to the limit; what is larger stands alone; what weighs nothing goes along."""
    entries = [Weight(tokens) for tokens in (4, 4, 0, 4, 20, 0, 3)]
    assert [[entry.tokens for entry in group] for group in cut(entries, 8)] == [[4, 4, 0], [4], [20], [0, 3]]
    assert list(cut([], 8)) == []
