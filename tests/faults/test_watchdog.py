"""A model call that never ends: the worker ends itself, with the record in hand unacknowledged."""

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

STALL_S = 3


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
