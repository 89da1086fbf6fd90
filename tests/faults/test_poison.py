"""Records that take the process down, and processes that are taken down: the first become dead letters, nobody else."""

import asyncio
import json
import signal

import pytest

from streamer.codec import DeadLetter, TagEvent
from tests.deadly import DEADLY, SLOW
from tests.faults.test_worker_faults import stopped_with
from tests.integration.test_worker import titled
from tests.workers import Place, Stage

pytestmark = pytest.mark.parametrize(
    "broker", ["tansu", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])], indirect=True
)

EVENTS = 200
DEATHS = 4  # in a batch, among those tried together, alone, alone again


async def until_it_stays_up(stage: Stage, places: list[Place], batch_listings: int = 64) -> int:
    """Start workers until one lives to see an outcome of every record, and end that one; returns how many died."""
    deaths = 0
    while True:
        worker = stage.worker("tests.deadly", batch_listings=batch_listings)
        ending = asyncio.create_task(worker.exit_code())
        writing = asyncio.create_task(stage.outcomes(places))
        await asyncio.wait({ending, writing}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            worker.terminate()
            assert await ending == 0
            return deaths
        writing.cancel()
        assert ending.result() == -signal.SIGKILL
        deaths += 1


async def judged(stage: Stage, places: list[Place]) -> dict[Place, DeadLetter]:
    """The dead letters, by record; every other record has its tags, and `verify` finds nothing."""
    found = await stage.outcomes(places)
    letters = {place: one for place, outcomes in found.items() for one in outcomes if isinstance(one, DeadLetter)}
    for place, outcomes in found.items():
        assert {type(outcome) for outcome in outcomes} == {DeadLetter if place in letters else TagEvent}
    verdict = json.loads(await stage.command("verify", "--all", "--json"))
    assert (verdict["good"], verdict["required"]) == (True, len(places))
    return letters


@pytest.mark.parametrize(
    ("batch_listings", "deaths"), [(1, DEATHS - 1), pytest.param(64, DEATHS, marks=pytest.mark.slow)]
)
async def test_a_record_that_kills_is_a_dead_letter(stage: Stage, batch_listings: int, deaths: int) -> None:
    """With its bytes and a reason of its own, after four deaths, three where it has no neighbours in its batch; these
    have their tags, nothing is lost, and the worker stays up."""
    await stage.create_topics()
    poison = EVENTS // 2
    values = [titled(number, DEADLY if number == poison else f"shoes {number}") for number in range(EVENTS)]
    places = await stage.publish(values)
    assert await until_it_stays_up(stage, places, batch_listings) == deaths
    [(place, letter)] = (await judged(stage, places)).items()
    assert (place, letter.reason, letter.value) == (places[poison], "worker_died", values[poison])


@pytest.mark.slow
async def test_several_records_that_kill(stage: Stage) -> None:
    """In one batch, in one partition and elsewhere: each is a dead letter."""
    await stage.create_topics()
    deadly = (3, 4, 100, EVENTS - 1)
    keys = [b"one" if number in deadly[:2] else f"{number}".encode() for number in range(EVENTS)]
    values = [titled(number, DEADLY if number in deadly else f"shoes {number}") for number in range(EVENTS)]
    places = await stage.publish(values, keys)
    assert await until_it_stays_up(stage, places) <= DEATHS * len(deadly)
    assert set(await judged(stage, places)) == {places[number] for number in deadly}


@pytest.mark.slow
async def test_killed_from_outside(stage: Stage) -> None:
    """A worker is killed in mid-stream, the next one among the suspects, one ends in order there, and a fourth is
    killed with a single row in hand: nobody is a dead letter."""
    await stage.create_topics()
    places = await stage.publish([titled(number, SLOW) for number in range(EVENTS)])
    with stage.worker("tests.deadly", batch_listings=16) as worker:
        await stage.until_written(32)
        worker.kill()
    for tried in (2, 3):  # together, then alone
        with stage.worker("tests.deadly", batch_listings=16) as worker:
            await worker.until("worker_died")
            await stage.until_written(32 * tried)
            worker.kill()
    with stage.worker("tests.deadly", batch_listings=16) as worker:
        await worker.until("worker_died")
        await worker.until("batch")
        worker.terminate()
        assert await worker.exit_code() == 0
    assert await until_it_stays_up(stage, places) == 0
    assert await judged(stage, places) == {}


async def test_without_its_topic(stage: Stage) -> None:
    """A worker that could not mark its partitions does not start, and says which topic there is not."""
    await stage.create_topics()
    missing = f"not-{stage.attempts}"
    with stage.worker("tests.deadly", attempts_topic=missing) as worker:
        message = await stopped_with(worker, "TopicMissing")
    assert message.startswith(f"{missing}: no such topic")
    assert "streamer topics create" in message
