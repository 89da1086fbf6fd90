"""Back-pressure: what waits for the model or the broker is bounded in bytes, whatever the burst."""

import asyncio
import json
import time

import psutil
import pytest

from streamer.settings import MIB
from tests.brokers import KAFKA
from tests.faulty import SLOW
from tests.load import Load, judged, until_committed
from tests.workers import PATIENCE_S, Stage

pytestmark = [
    pytest.mark.slow,
    KAFKA,
]

RECORDS, RECORD_BYTES = 300, 3 * MIB
QUEUE_BYTES = 16 * MIB
PARTITIONS = 4
TITLE = "Nike water proof running shoes"
SLOW_ONE_IN = 6  # a batch with a record of these takes the model a second


def record(number: int) -> bytes:
    """A listing whose event is large, as a producer's may be: most of it is no field of ours."""
    fields = {"merchant_id": "acme", "product_id": f"p{number}", "listing_version": 1, "event_time": 1}
    fields["title"] = TITLE if number % SLOW_ONE_IN else SLOW
    return json.dumps(fields | {"rendered": "x" * RECORD_BYTES}).encode()


async def test_a_burst_of_large_records_before_a_slow_model(stage: Stage) -> None:
    """300 records of 3 MiB, ten times what a worker may hold: its memory stays under what it had before, four times
    `queue_bytes` (the values, and what decoding makes of those in a batch), and two fetches a partition."""
    await stage.create_topics()
    load = Load(stage, rate=0)
    await load.burst(100)
    worker = stage.worker("tests.faulty", queue_bytes=QUEUE_BYTES)
    await until_committed(stage, load)
    process = psutil.Process(worker.pid)
    before = most = process.memory_info().rss
    bound = before + 4 * QUEUE_BYTES + 2 * PARTITIONS * (RECORD_BYTES + MIB)
    for first in range(0, RECORDS, 10):
        load.places += await stage.publish([record(number) for number in range(first, first + 10)])
        most = max(most, process.memory_info().rss)
    deadline = time.monotonic() + PATIENCE_S
    while sum((await stage.committed()).values()) < len(load.places):
        assert time.monotonic() < deadline, stage.logs()
        for _ in range(10):
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.1)
    print(
        f"\nresident before {before // MIB} MiB, at most {most // MIB} MiB, bound {bound // MIB} MiB, "
        f"records {RECORDS * RECORD_BYTES // MIB} MiB"
    )
    assert most < bound
    await judged(stage, load, "a burst of large records", 1)
