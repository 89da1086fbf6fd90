"""Workers under load that are killed, stopped for a while, told to end, or come and go: `streamer verify` judges."""

import asyncio
import random
import signal
import time

import pytest

from streamer import failpoints
from tests.brokers import KAFKA
from tests.faults.test_worker_faults import stopped_with
from tests.load import SEED, SOAK_S, Load, judged, until_committed
from tests.merchants import Merchants
from tests.workers import Stage

pytestmark = [
    pytest.mark.slow,
    KAFKA,
    pytest.mark.timeout(900 + 2 * SOAK_S),
]

KILLS = 100 if SOAK_S else 20
SESSION_S = 3  # as the stage's workers are told
CHURN_S = 120 if SOAK_S else 45


async def test_kill_9_at_random_moments(stage: Stage) -> None:
    """Of two workers the older is killed again and again, a random moment after it began to consume."""
    chance = random.Random(SEED)  # noqa: S311
    await stage.create_topics()
    until = time.monotonic() + (SOAK_S or 600)
    kills = 0
    async with Load(stage) as load:
        workers = [stage.worker(batch_listings=16) for _ in range(2)]
        while kills < KILLS and time.monotonic() < until:
            oldest = workers.pop(0)
            await oldest.until("consuming")
            await asyncio.sleep(chance.uniform(0, 3))
            oldest.kill()
            kills += 1
            workers.append(stage.worker(batch_listings=16))
    await until_committed(stage, load)
    await judged(stage, load, "kill -9 of a worker", kills)
    assert kills == KILLS or SOAK_S


@pytest.mark.parametrize("point", failpoints.POINTS[:3])
async def test_kill_9_at_a_step_of_a_commit(stage: Stage, point: str) -> None:
    """Exactly there, at the tenth batch and again at the tenth after it; what was written and not committed is
    written again, under the same ids."""
    await stage.create_topics()
    async with Load(stage) as load:
        for _ in range(2):
            with stage.worker(batch_listings=16, fail_at=f"{point}:10") as worker:
                assert await worker.exit_code() == -signal.SIGKILL
        stage.worker()
    await until_committed(stage, load)
    await judged(stage, load, f"kill -9 at {point}", 2)


@pytest.mark.parametrize("point", failpoints.POINTS[3:])
async def test_kill_9_at_a_step_of_a_swap(stage: Stage, point: str) -> None:
    """A merchant's first version and its second take over, each after a worker was killed exactly there: nothing is
    lost, and the events of a worker that comes after it are of the version that the log names."""
    merchants = await Merchants.enter(stage, stage.folder / "merchants")
    async with Load(stage) as load:
        for version in (1, 2):
            # the second one passes there on its way with the first version, before it consumes
            with stage.worker(batch_listings=16, fail_at=f"{point}:{version}") as worker:
                await worker.until("consuming")
                change = await merchants.send("acme", "assign", merchants.version("for-acme", version, merchant="acme"))
                assert await worker.exit_code() == -signal.SIGKILL
            with stage.worker(batch_listings=16) as worker:
                await merchants.settled(change)
                await merchants.settled(change, "in_use")
        stage.worker()
    await until_committed(stage, load)
    await judged(stage, load, f"kill -9 at {point}", 2)


async def test_sigterm_under_load(stage: Stage) -> None:
    """It finishes what is in hand, commits it and leaves with 0; nothing is repeated."""
    await stage.create_topics()
    async with Load(stage) as load:
        for _ in range(3):
            with stage.worker() as worker:
                await worker.until("batch")
                await asyncio.sleep(1)
                worker.terminate()
                assert await worker.exit_code() == 0
        stage.worker()
    await until_committed(stage, load)
    verdict = await judged(stage, load, "SIGTERM", 3)
    assert verdict["repeats"] == 0


async def test_stopped_for_longer_than_the_session(stage: Stage) -> None:
    """SIGSTOP in mid-load: another worker takes the partitions over. The one that wakes up acknowledges nothing that
    it no longer owns: the group's offsets never go back, and it rejoins, or ends by itself."""
    await stage.create_topics()
    async with Load(stage) as load:
        sleeper = stage.worker(batch_listings=4)
        await sleeper.until("batch")
        other = stage.worker(batch_listings=4)
        for _ in range(2):
            await asyncio.sleep(2)
            sleeper.send_signal(signal.SIGSTOP)
            await asyncio.sleep(2 * SESSION_S + 2)
            before = await stage.committed()
            sleeper.send_signal(signal.SIGCONT)
            for _ in range(20):
                await asyncio.sleep(0.25)
                after = await stage.committed()
                assert all(after[one] >= before[one] for one in before), (before, after)
                before = after
        assert other.running
        print("\nthe worker that was stopped", "has rejoined" if sleeper.running else "has ended")
        if not sleeper.running:
            assert await sleeper.exit_code() == 1
    await until_committed(stage, load)
    await judged(stage, load, "SIGSTOP for longer than the session", 2)


async def test_joining_and_leaving_every_few_seconds(stage: Stage) -> None:
    """Two workers that come and go, by SIGTERM and by kill -9 in turn, beside one that stays."""
    chance = random.Random(SEED)  # noqa: S311
    await stage.create_topics()
    until = time.monotonic() + CHURN_S
    left = 0
    async with Load(stage) as load:
        stays = stage.worker()
        guests = [stage.worker(), stage.worker()]
        while time.monotonic() < until:
            guest = guests.pop(0)
            await guest.until("consuming")
            await asyncio.sleep(chance.uniform(0, 2))
            if left % 2:
                guest.kill()
            else:
                guest.terminate()
                assert await guest.exit_code() == 0
            left += 1
            guests.append(stage.worker())
        assert stays.running
    await until_committed(stage, load)
    await judged(stage, load, "a worker leaves, another joins", left)


async def test_a_static_member_that_comes_back_moves_no_partitions(stage: Stage) -> None:
    """Ended and started again under its name within the session timeout, it has its old partitions, and the other
    worker goes on without a rebalance; nothing is lost or repeated."""
    await stage.create_topics()
    named = {"session_timeout_s": 60, "group_instance_id": "a"}, {"session_timeout_s": 60, "group_instance_id": "b"}
    stays, returns = (stage.worker(**its) for its in named)
    for worker in (stays, returns):
        await worker.shares(4)  # of four, of the source topic and the retry topic
    async with Load(stage) as load:
        before = stays.events_of("assigned")
        for _ in range(2):
            await returns.until("batch")
            returns.terminate()
            assert await returns.exit_code() == 0
            returns = stage.worker(**named[1])
        await returns.until("batch")
        assert stays.events_of("assigned") == before
    await until_committed(stage, load)
    verdict = await judged(stage, load, "a static member leaves and comes back", 2)
    assert verdict["repeats"] == 0


async def test_two_workers_of_one_name(stage: Stage) -> None:
    """The later one has the partitions; the older ends with one line instead of taking the name back."""
    await stage.create_topics()
    async with Load(stage) as load:
        older = stage.worker(group_instance_id="a")
        await older.until("batch")
        newer = stage.worker(group_instance_id="a")
        assert "group_instance_id a" in await stopped_with(older, "Fenced")
        await newer.until("batch")
    await until_committed(stage, load)
    assert newer.running
    await judged(stage, load, "another worker of the same name", 1)
