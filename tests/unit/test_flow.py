"""The batches in hand: how many there may be, and who is told when there are fewer."""

import asyncio

from streamer.batch import Intake
from streamer.flow import Batch, Flow
from streamer.pipeline import Outcome, Stage


def batch() -> Batch:
    """One on its way to the model."""
    tagged: asyncio.Future[tuple[list[Outcome], Stage]] = asyncio.get_running_loop().create_future()
    return Batch((), tagged, 0.0, 0.0, 0.0)


async def test_two_in_the_model_and_three_in_hand() -> None:
    """Beyond that another one would only stand behind others; the intake is woken when it would not any more."""
    intake: Intake[int] = Intake(8)
    flow = Flow(None, intake)
    first, second, third = batch(), batch(), batch()
    flow.put(first)
    assert not flow.full
    flow.put(second)
    assert flow.full  # one is read, one stands ready
    first.tagged.set_result(([], Stage(0.0, 0.0)))
    await asyncio.wait_for(intake.gather(1, 60), 1)
    assert not flow.full
    flow.put(third)
    assert flow.full
    second.tagged.set_result(([], Stage(0.0, 0.0)))
    await asyncio.wait_for(intake.gather(1, 60), 1)
    assert flow.full  # and one is being delivered
    flow.done()
    await asyncio.wait_for(intake.gather(1, 60), 1)
    assert not flow.full


async def test_waits_for_what_is_in_hand() -> None:
    """Until so many are left and no longer."""
    flow = Flow(None, Intake(8))
    for _ in range(3):
        flow.put(batch())
    await asyncio.wait_for(flow.at_most(3), 1)
    two, none = asyncio.create_task(flow.at_most(2)), asyncio.create_task(flow.at_most(0))
    await asyncio.sleep(0)
    flow.done()
    await asyncio.wait_for(two, 1)
    flow.done()
    await asyncio.sleep(0)
    assert not none.done()
    flow.done()
    await asyncio.wait_for(none, 1)
