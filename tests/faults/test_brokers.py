"""Brokers under load: the only one killed and back, and one that has lost what it took."""

from pathlib import Path

import pytest

from tests.brokers import ApacheKafka
from tests.faults.test_worker_faults import stopped_with
from tests.load import Load, judged, until_committed
from tests.workers import Stage

pytestmark = [pytest.mark.slow, pytest.mark.kafka]

RESTARTS = 3


@pytest.mark.parametrize("own_broker", ["kafka"], indirect=True)
async def test_the_only_broker_is_killed_and_comes_back(own_stage: Stage) -> None:
    """Again and again, with its data, in the middle of a burst: one worker goes on through all of it."""
    await own_stage.create_topics()
    load = Load(own_stage)
    with own_stage.worker(batch_listings=16) as worker:
        for turn in range(RESTARTS):
            await load.burst(800)
            await own_stage.until_written(100 + 800 * turn)
            own_stage.broker.kill()
            await worker.until("broker_not_reachable", 1 + turn)
            own_stage.broker.start()
        await until_committed(own_stage, load)
        assert worker.running
    await judged(own_stage, load, "kill -9 of the only broker", RESTARTS)


def segments(broker: ApacheKafka, topic: str) -> list[Path]:
    """The files with the records of a topic."""
    return sorted(broker.folder.glob(f"data/{topic}-*/*.log"))


@pytest.mark.parametrize("own_broker", ["kafka"], indirect=True)
async def test_a_broker_that_has_lost_what_it_took(own_stage: Stage) -> None:
    """It forgets the last of the tag events, as one that never flushed them does without power, and so the idempotent
    producer's sequence: that says so once, and the worker ends with one line and exit code 1, and does not hang (as
    in aiokafka's issue 1017); what was in hand is unacknowledged, and another worker tags it."""
    broker = own_stage.broker
    assert isinstance(broker, ApacheKafka)
    await own_stage.create_topics()
    load = Load(own_stage)
    await load.burst(400)
    with own_stage.worker(batch_listings=16) as worker:
        await until_committed(own_stage, load)
        broker.kill()
        for segment in segments(broker, own_stage.tags):
            with segment.open("r+b") as content:
                content.truncate(segment.stat().st_size // 2)
        broker.start()
        behind = await own_stage.publish([value for _, value in load.take(100)])
        message = await stopped_with(worker, "DeliveryError")
    assert "OutOfOrderSequenceNumber" in message
    with own_stage.worker():
        await own_stage.outcomes(behind, others=True)
    print(f"\na broker that has lost what it took: inputs {len(load.places) + len(behind)}, the worker: {message}")
