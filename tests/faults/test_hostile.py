"""What nobody does on purpose, or only somebody who means harm: a clock that jumps, a merchant for every record."""

import signal

import psutil
import pytest

from streamer.codec import Codec
from streamer.settings import MIB
from taggen.listing import Listing
from tests.brokers import SLOW_ON_KAFKA
from tests.load import Load, judged, until_committed
from tests.workers import Stage

pytestmark = SLOW_ON_KAFKA

MERCHANTS = 100_000
WARM = 20_000  # of them, before memory is looked at
CHUNK = 5_000


async def test_a_clock_that_jumps(stage: Stage) -> None:
    """An hour ahead and back again under load: nobody is thrown out of the group, nothing is lost or repeated, and the
    worker stays ready."""
    await stage.create_topics()
    with stage.worker("tests.clock") as worker:
        await worker.until("consuming")
        async with Load(stage) as load:
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
                await load.burst(50)
                worker.send_signal(number)
        await until_committed(stage, load)
        assert (await worker.get("/readyz"))[0] == 200
        assert (await worker.get("/healthz"))[0] == 200
        worker.terminate()
        assert await worker.exit_code() == 0
    verdict = await judged(stage, load, "a clock that jumps an hour", 4)
    assert verdict["repeats"] == 0


@pytest.mark.slow
async def test_a_merchant_for_every_record(stage: Stage) -> None:
    """100,000 of them: all are tagged, and neither the worker's memory nor its metrics grow with their number."""
    await stage.create_topics()
    load, codec = Load(stage, rate=0), Codec()
    grown = lines = 0
    with stage.worker("tests.deadly", remembered_versions=WARM // 2) as worker:
        memory = psutil.Process(worker.pid).memory_info
        for first in range(0, MERCHANTS, CHUNK):
            numbers = range(first, first + CHUNK)
            listings = [Listing(f"merchant-{one}", f"p-{one}", 1, "Nike shoes", event_time=1) for one in numbers]
            load.places += await stage.publish([codec.encode_listing(one) for one in listings])
            await until_committed(stage, load)
            if first + CHUNK == WARM:
                grown, lines = memory().rss, len((await worker.get("/metrics"))[1].splitlines())
        grown = memory().rss - grown
        assert len((await worker.get("/metrics"))[1].splitlines()) <= lines + 10
    print(f"\n{MERCHANTS} merchants: {grown // MIB} MiB more than after {WARM}")
    assert grown < 32 * MIB
    await judged(stage, load, "a merchant for every record", MERCHANTS)
