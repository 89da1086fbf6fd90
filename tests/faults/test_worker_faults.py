"""A worker in trouble: killed, without its broker, with a broken device, on a topic of junk. Nothing is lost."""

import json

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from streamer.records import DeadLetter, TagEvent
from tests.brokers import SLOW_ON_KAFKA
from tests.faulty import DEVICE, SLOW
from tests.integration.test_worker import avro, titled
from tests.workers import Stage, WorkerProcess

EVENTS = 2_000


async def stopped_with(worker: WorkerProcess, error: str) -> str:
    """The message of the last line of a worker's log, which names this error; its exit code is 1."""
    assert await worker.exit_code() == 1
    lines = worker.log.read_text().splitlines()
    stops = [event for line in lines if line.startswith("{") and (event := json.loads(line))["event"] == "stopped"]
    assert [event["error"] for event in stops] == [error]
    assert not any("Traceback" in line for line in lines)
    return str(stops[0]["message"])


async def test_kill_9_loses_nothing(stage: Stage) -> None:
    """Killed twice in mid-stream: every input has an outcome, a repeat carries the same event id and tags, and nobody
    is held to have killed the worker.

    `streamer verify` finds the same, and a loss, an invention and a reordering that are planted afterwards.
    """
    await stage.create_topics()
    values = [avro(number) if number % 100 else b"junk" for number in range(EVENTS)]
    places = await stage.publish(values)
    for seen in (100, 800):
        with stage.worker(batch_listings=16) as worker:
            await stage.until_written(seen)
            worker.kill()
    with stage.worker():
        found = await stage.outcomes(places)
    letters = [one for outcomes in found.values() for one in outcomes if isinstance(one, DeadLetter)]
    assert {letter.reason for letter in letters} == {"undecodable"}
    repeats = [outcomes for outcomes in found.values() if len(outcomes) > 1]
    assert len(repeats) < EVENTS
    for outcomes in repeats:
        events = [outcome for outcome in outcomes if isinstance(outcome, TagEvent)]
        assert len({(event.event_id, event.tags) for event in events}) == bool(events)
    verdict = json.loads(await stage.command("verify", "--all", "--json"))
    assert (verdict["good"], verdict["inputs"], verdict["required"]) == (True, EVENTS, EVENTS)
    assert verdict["repeats"] == sum(len(outcomes) - 1 for outcomes in found.values())
    await stage.publish([avro(EVENTS)])  # nobody tags it
    assert json.loads(await stage.command("verify", "--json"))["good"]  # nor has acknowledged it
    verdict = json.loads(await stage.command("verify", "--all", "--json", code=1))
    assert verdict["found"] == {"lost": 1, "invented": 0, "contradicted": 0, "reordered": 0, "unreadable": 0}


@pytest.mark.parametrize("idle", [True, False])
async def test_broker_gone_for_good(own_stage: Stage, idle: bool) -> None:
    """It retries, then stops with one clear error; what is in hand stays unacknowledged."""
    await own_stage.create_topics()
    await own_stage.publish([avro(0)] if idle else [titled(number, SLOW) for number in range(600)])
    with own_stage.worker("tests.faulty", broker_retry_s=3, batch_listings=16) as worker:
        await own_stage.until_written(1)
        own_stage.broker.kill()
        message = await stopped_with(worker, "BrokerUnavailable")
    assert own_stage.broker.bootstrap in message
    assert worker.events_of("broker_not_reachable")


async def test_broker_gone_before_the_start(own_stage: Stage) -> None:
    """The start retries for as long as it is told, then says which broker does not answer."""
    own_stage.broker.kill()
    with own_stage.worker(broker_retry_s=2) as worker:
        assert own_stage.broker.bootstrap in await stopped_with(worker, "BrokerUnavailable")


async def test_broker_away_for_a_moment(own_stage: Stage) -> None:
    """A restarted broker (with its data: not the embedded one) is worked on with, without an end of the worker."""
    if own_stage.broker.kind == "tansu":
        pytest.skip("the embedded broker keeps nothing over a restart")
    await own_stage.create_topics()
    places = await own_stage.publish([avro(number) for number in range(EVENTS)])
    with own_stage.worker(batch_listings=16) as worker:
        await own_stage.until_written(100)
        own_stage.broker.kill()
        await worker.until("broker_not_reachable")
        own_stage.broker.start()
        await own_stage.outcomes(places)
        assert worker.running


@SLOW_ON_KAFKA
async def test_missing_topic(stage: Stage) -> None:
    """Names the topic and the command that makes it."""
    with stage.worker() as worker:
        message = await stopped_with(worker, "TopicMissing")
    assert message.startswith(f"{stage.source}: no such topic")
    assert "streamer topics create" in message


@SLOW_ON_KAFKA
async def test_a_topic_of_junk_is_not_drained(stage: Stage) -> None:
    """The worker stops and has acknowledged nothing."""
    await stage.create_topics()
    await stage.publish([b"junk"] * 400)
    with stage.worker() as worker:
        message = await stopped_with(worker, "TooManyDeadLetters")
    assert "most of them undecodable" in message
    assert sum((await stage.committed()).values()) == 0


@SLOW_ON_KAFKA
async def test_device_failure_is_not_poison(stage: Stage) -> None:
    """Tried again, then the worker stops; the batch that hit it is unacknowledged and no dead letter."""
    await stage.create_topics()
    await stage.publish([titled(number, DEVICE if number == 50 else "fine") for number in range(100)])
    with stage.worker("tests.faulty", broker_retry_s=2) as worker:
        await stopped_with(worker, "DeviceError")
    assert worker.events_of("retrying")
    assert sum((await stage.committed()).values()) < 100
    with stage.worker() as after:
        await stage.until_written(100)
        assert not any(event["event"] == "dead_letter" for event in after.events)


async def test_committed_offset_below_the_oldest_record(stage: Stage) -> None:
    """Retention has overtaken the group: an error that names topic, partition and offset, not a silent jump."""
    if stage.broker.kind == "tansu":
        pytest.skip("the embedded broker deletes no records")
    await stage.create_topics()
    places = await stage.publish([avro(number) for number in range(200)])
    with stage.worker() as worker:
        await stage.outcomes(places)
        worker.terminate()
        assert await worker.exit_code() == 0
    offset = (await stage.committed())[0]
    await stage.publish([avro(number) for number in range(200)])
    admin = AIOKafkaAdminClient(bootstrap_servers=stage.broker.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(stage.source, 0): RecordsToDelete(before_offset=offset + 1)})
    await admin.close()
    with stage.worker() as worker:
        message = await stopped_with(worker, "OffsetLost")
    assert message.startswith(f"{stage.source}/0: the group's committed offset {offset} is not on the broker")
