"""What no exception tells of, a model call that never ends and a partition that is not fetched: the worker ends itself,
with what it has in hand unacknowledged."""

import asyncio
import json

import pytest

from tests.brokers import KAFKA
from tests.faults.test_worker_faults import stopped_with
from tests.faulty import HANG
from tests.integration.test_worker import titled
from tests.load import Load, judged, until_committed
from tests.workers import Stage

pytestmark = [
    pytest.mark.slow,
    KAFKA,
]

STALL_S = 4


async def test_a_hung_model_thread(stage: Stage) -> None:
    """One line that names the partition and the offset, exit code 1, nothing from there on acknowledged; a worker
    with a model that answers goes on behind what was."""
    await stage.create_topics()
    load = Load(stage)
    await load.burst(200)
    [hanging] = await stage.publish([titled(0, HANG)])
    load.places.append(hanging)
    await load.burst(200)
    _, partition, offset = hanging
    with stage.worker("tests.faulty", stall_s=STALL_S, batch_listings=16) as worker:
        message = await stopped_with(worker, "Stalled")
    assert f"in hand and not finished for {STALL_S} s" in message
    assert (await stage.committed())[partition] <= offset
    json.loads(await stage.command("verify", "--json"))  # what is acknowledged has its outcome
    stage.worker()
    await until_committed(stage, load)
    await judged(stage, load, "a model call that never ends", 1)


async def test_a_partition_that_is_not_fetched_any_more(stage: Stage) -> None:
    """The others go on, and one line names the one that does not; exit code 1. A worker whose client fetches them all
    goes on; an idle partition is none that is not fetched."""
    await stage.create_topics()
    async with Load(stage) as load:
        with stage.worker("tests.unfetched", stall_s=STALL_S) as worker:
            message = await stopped_with(worker, "NotFetched")
        assert "/0: no fetch answered" in message
        committed = await stage.committed()
        assert committed[0] < min(committed[number] for number in (1, 2, 3))
    with stage.worker(stall_s=STALL_S) as worker:
        await until_committed(stage, load)
        await asyncio.sleep(2 * STALL_S)
        assert worker.running
    await judged(stage, load, "a partition that is not fetched any more", 1)
