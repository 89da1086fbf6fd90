"""A worker's reading of a long control topic, beside aiokafka's bare reading of it."""

import resource
import time
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from streamer import topics
from streamer.broker import EmbeddedBroker
from streamer.codec import Codec
from streamer.control import Control
from streamer.records import route_key
from streamer.routing import RouteChange, Routing
from streamer.settings import Settings
from taggen.reference import Reference

CODEC = Codec()


async def measure_log(folder: Path, records: int, merchants: int) -> dict[str, Any]:
    """Reading a control topic of so many records."""
    base = "f" * 64
    with EmbeddedBroker(log=folder / "control.log") as broker:
        settings = Settings(kafka_bootstrap=broker.bootstrap, fetch_max_wait_ms=50)
        await topics.ensure([topics.adapters(settings.adapters_topic)], bootstrap_servers=broker.bootstrap)
        await write_log(settings, records, merchants, base)
        began = time.perf_counter()
        await read_plainly(settings, records)
        plain_s = time.perf_counter() - began
        routing = Routing(base)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        control = Control(settings, CODEC, lambda change, _: routing.apply(change) and None)
        began = time.perf_counter()
        await control.start()
        ours_s = time.perf_counter() - began
        await control.stop()
    assert (control.next_offset, len(routing)) == (records, merchants)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return {
        "log_records": records,
        "log_s": ours_s,
        "log_plain_s": plain_s,
        "log_over_plain": ours_s / plain_s,
        "log_grown_mib": grown / 1024,
    }


async def write_log(settings: Settings, records: int, merchants: int, base: str) -> None:
    """Records for the merchants in turn."""
    partition = 0
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, max_batch_size=2**19) as producer:
        number = 0
        while number < records:
            batch = producer.create_batch()
            while number < records:
                revision, merchant = divmod(number, merchants)
                name = f"merchant-{merchant}"
                reference = Reference(name, str(revision), f"{number:064x}")
                change = RouteChange(name, base, revision + 1, "assign", reference, None, number)
                value = CODEC.encode_route_change(change)
                if batch.append(timestamp=None, key=route_key(name, base), value=value) is None:
                    break
                number += 1
            batch.close()
            await (await producer.send_batch(batch, settings.adapters_topic, partition=partition))


async def read_plainly(settings: Settings, records: int) -> None:
    """As the client alone does."""
    partition = TopicPartition(settings.adapters_topic, 0)
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, max_partition_fetch_bytes=2**22, fetch_max_wait_ms=50
    ) as consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        count = 0
        while count < records:
            count += sum(map(len, (await consumer.getmany(timeout_ms=200)).values()))
