"""A bad connection between a worker and its broker, by toxiproxy; the tests' own clients go past it."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import toxiproxy
from tests.brokers import ProxiedKafka
from tests.conftest import kafka_or_skip
from tests.load import Load, judged, until_committed
from tests.toxiproxy import Toxiproxy
from tests.workers import Stage

if TYPE_CHECKING:
    from tests.tiny import Tiny

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def proxied(tmp_path: Path, tiny: "Tiny", unique: Callable[[str], str]) -> Iterator[tuple[Stage, Toxiproxy]]:
    """A stage whose workers reach the broker through a proxy only."""
    broker = kafka_or_skip(ProxiedKafka, tmp_path)
    proxy = toxiproxy.or_skip(f"127.0.0.1:{broker.behind}", broker.before)
    with broker, proxy:
        stage = Stage(broker, tiny, tmp_path, unique("stage"))
        try:
            yield stage, proxy
        finally:
            for worker in stage.started:
                worker.kill()


FAULTS = {
    "a cut connection": Toxiproxy.cut,
    "a connection of 200 ms and 100 kB/s": lambda proxy: proxy.slow(200, 100, 100),
    "connections that are reset": lambda proxy: proxy.reset_peers(200),
    "a connection that answers nothing": Toxiproxy.black_hole,
}
TIMES = 3
LASTS_S = 5  # longer than the session


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_bad_connection_for_a_while(proxied: tuple[Stage, Toxiproxy], fault: str) -> None:
    """Three times, each longer than the group's session: nothing is lost, and the worker goes on or ends with one line
    and exit code 1; then it is started again."""
    stage, proxy = proxied
    await stage.create_topics()

    def start() -> None:
        stage.worker(batch_listings=16, kafka_bootstrap=proxy.through, broker_retry_s=20)

    ended = 0
    async with Load(stage) as load:
        start()
        await stage.until_written(100)
        for _ in range(TIMES):
            FAULTS[fault](proxy)
            await asyncio.sleep(LASTS_S)
            proxy.mend()
            await asyncio.sleep(LASTS_S)
            if not stage.started[-1].running:
                assert await stage.started[-1].exit_code() == 1
                assert [event["event"] for event in stage.started[-1].events].count("stopped") == 1
                ended += 1
                start()
    await until_committed(stage, load)
    print(f"\nworkers that ended: {ended}")
    await judged(stage, load, fault, TIMES)
