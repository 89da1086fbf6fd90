"""Records that take the process down, and processes that are taken down: the first become dead letters, nobody else."""

import asyncio
import json
import signal

from streamer.codec import DeadLetter, TagEvent
from tests.deadly import DEADLY
from tests.integration.test_worker import titled
from tests.workers import Stage

EVENTS = 300
DEADLY_ONES = (150,)


async def test_a_record_that_kills_is_a_dead_letter(stage: Stage) -> None:
    """It is in a batch at one death, among those tried together at the next, and alone at two: then the worker stays
    up. Its neighbours have their tags, nothing is lost, and the next start knows nothing of it any more."""
    await stage.create_topics()
    values = [titled(number, DEADLY if number in DEADLY_ONES else f"shoes {number}") for number in range(EVENTS)]
    places = await stage.publish(values)
    deaths = 0
    while True:
        worker = stage.worker("tests.deadly", session_timeout_s=1.5)
        ending = asyncio.create_task(worker.exit_code())
        writing = asyncio.create_task(stage.outcomes(places))
        await asyncio.wait({ending, writing}, return_when=asyncio.FIRST_COMPLETED)
        if writing.done():
            break
        writing.cancel()
        assert ending.result() == -signal.SIGKILL
        deaths += 1
    worker.terminate()
    assert await ending == 0
    found = writing.result()
    assert deaths == 4
    for number, place in enumerate(places):
        if number in DEADLY_ONES:
            [letter] = found[place]
            assert isinstance(letter, DeadLetter)
            assert (letter.reason, letter.value) == ("worker_died", values[number])
        else:
            assert {type(outcome) for outcome in found[place]} == {TagEvent}
    verdict = json.loads(await stage.command("verify", "--all", "--json"))
    assert (verdict["good"], verdict["required"]) == (True, EVENTS)
