"""Records that take the process down, and processes that are taken down: the first become dead letters, nobody else."""

import asyncio
import json
import signal

import pytest

from streamer.records import DeadLetter, TagEvent
from tests.brokers import SLOW_ON_KAFKA
from tests.deadly import DEADLY, SLOW
from tests.faults.test_worker_faults import stopped_with
from tests.integration.test_worker import titled
from tests.workers import Place, Stage, WorkerProcess

pytestmark = SLOW_ON_KAFKA

EVENTS = 200
DEATHS = 4  # in a batch, among those tried together, alone, alone again


async def until_they_stay_up(stage: Stage, places: list[Place], workers: int = 1, **settings: object) -> int:
    """Keep so many workers running until they live to see an outcome of every record, and end them; returns how many
    died."""
    crew: dict[asyncio.Task[int], WorkerProcess] = {}
    deaths = 0
    while True:
        while len(crew) < workers:
            worker = stage.worker("tests.deadly", **settings)
            crew[asyncio.create_task(worker.exit_code())] = worker
        writing = asyncio.create_task(stage.outcomes(places))
        await asyncio.wait({writing, *crew}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            for worker in crew.values():
                worker.terminate()
            assert await asyncio.gather(*crew) == [0] * workers
            return deaths
        writing.cancel()
        for ended in [one for one in crew if one.done()]:
            assert ended.result() == -signal.SIGKILL
            del crew[ended]
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
    assert await until_they_stay_up(stage, places, batch_listings=batch_listings) == deaths
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
    assert await until_they_stay_up(stage, places) <= DEATHS * len(deadly)
    assert set(await judged(stage, places)) == {places[number] for number in deadly}


@pytest.mark.slow
async def test_in_a_group_of_two(stage: Stage) -> None:
    """The record kills whoever has its partition, which moves from one to the other meanwhile; the same comes out."""
    await stage.create_topics()
    poison = EVENTS // 2
    places = await stage.publish([titled(one, DEADLY if one == poison else f"shoes {one}") for one in range(EVENTS)])
    assert await until_they_stay_up(stage, places, workers=2) >= DEATHS - 1
    assert set(await judged(stage, places)) == {places[poison]}


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
    assert await until_they_stay_up(stage, places) == 0
    assert await judged(stage, places) == {}


async def test_without_its_topic(stage: Stage) -> None:
    """A worker that could not mark its partitions does not start, and says which topic there is not."""
    await stage.create_topics()
    missing = f"not-{stage.attempts}"
    with stage.worker("tests.deadly", attempts_topic=missing) as worker:
        message = await stopped_with(worker, "TopicMissing")
    assert message.startswith(f"{missing}: no such topic")
    assert "streamer topics create" in message
