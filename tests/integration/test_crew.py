"""Replays that processes share: what comes out, how they go on, and that all end as one."""

import asyncio
import itertools
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from streamer.broker import BrokerProcess
from streamer.crew import Crew
from streamer.errors import InputError, StreamerError
from streamer.plan import Selection
from streamer.replay import Options, Result
from streamer.settings import Settings
from taggen.errors import DeviceError
from tests.brokers import KAFKA, SLOW_ON_KAFKA
from tests.integration.test_replay import Run, avro
from tests.unit.fakes import FakeTagger
from tests.workers import Stage

LISTINGS = 400
WITHIN_S = 120


def fake(_: Settings) -> FakeTagger:
    """The tagger of each process."""
    return FakeTagger()


def fails_alone(_: Settings) -> FakeTagger:
    """Fails in the second process that comes here."""
    try:
        Path(os.environ["CREW_TEST_FILE"]).touch(exist_ok=False)
    except FileExistsError:
        raise DeviceError("no device is left") from None
    return FakeTagger()


class Shared(Run):
    """Crews over a stage's topics."""

    def crew(self, workers: int, load: Callable[[Settings], FakeTagger] = fake, rate: float | None = None) -> Crew:
        settings = self.stage.here(batch_listings=8)
        selection = Selection(topics=settings.source_topics)
        return Crew(settings, Options(self.stage.name, selection, rate=rate, workers=workers), load)

    async def together(self, workers: int, load: Callable[[Settings], FakeTagger] = fake) -> Result:
        return await asyncio.wait_for(self.crew(workers, load).run(), WITHIN_S)


@pytest.fixture
def stage(broker: BrokerProcess, tmp_path: Path, unique: Callable[[str], str]) -> Stage:
    """Topics without workers."""
    return Stage(broker, None, tmp_path, unique("stage"))


@pytest.fixture
async def shared(stage: Stage) -> Shared:
    """Topics, and crews over them."""
    await stage.create_topics()
    return Shared(stage)


@SLOW_ON_KAFKA
async def test_shares_the_partitions(stage: Stage, shared: Shared) -> None:
    """Each record once, those of a partition in order, the counts of all of them in one tally; more processes than
    partitions are refused before anything is begun."""
    places = await stage.publish([avro(number) for number in range(LISTINGS)] + [b"junk"])
    with pytest.raises(InputError, match="--workers 5: the replay has 4 partitions"):
        await shared.together(5)
    result = await shared.together(3)
    assert (result.plan.resumed, result.finished) == (False, False)
    assert (result.tally.records, result.tally.listings, result.tally.unknown) == (LISTINGS + 1, LISTINGS, LISTINGS)
    assert result.tally.dead_letters == Counter(undecodable=1)
    events = await shared.events()
    assert sorted(tuple(one.source) for one in events) == sorted(places[:-1])
    for product in {one.product_id for one in events}:
        offsets = [one.source for one in events if one.product_id == product]
        assert all(
            before.offset < after.offset
            for before, after in itertools.pairwise(offsets)
            if before.partition == after.partition
        )


@KAFKA
async def test_goes_on_with_another_crew(stage: Stage, shared: Shared) -> None:
    """A process of it that is killed ends the replay in one line; a larger crew goes on, and nothing is left out."""
    places = await stage.publish([avro(number) for number in range(LISTINGS)])
    crew = shared.crew(2, rate=100)
    running = asyncio.create_task(crew.run())
    async with asyncio.timeout(WITHIN_S):
        while not ((status := crew.status) and status.listings > 20):
            await asyncio.wait({running}, timeout=0.05)
    assert status.total == LISTINGS
    one, *_ = multiprocessing.active_children()
    os.kill(one.pid or 0, signal.SIGKILL)
    with pytest.raises(StreamerError, match="ended with status -9"):
        await asyncio.wait_for(running, WITHIN_S)
    assert multiprocessing.active_children() == []
    assert len(await shared.events()) < LISTINGS
    result = await shared.together(4)
    assert (result.plan.resumed, result.finished) == (True, False)
    assert 0 < result.plan.offsets_done < LISTINGS
    assert {tuple(one.source) for one in await shared.events()} == set(places)
    assert (await shared.together(2)).finished


@SLOW_ON_KAFKA
async def test_all_end_with_one(stage: Stage, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of the processes failed with is what the replay fails with, and no other goes on."""
    await stage.publish([avro(number) for number in range(LISTINGS)])
    monkeypatch.setenv("CREW_TEST_FILE", str(tmp_path / "first"))
    with pytest.raises(StreamerError, match="no device is left"):
        await shared.together(2, fails_alone)
    assert multiprocessing.active_children() == []
