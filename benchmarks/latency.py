"""How long a listing takes from its record on Kafka to its tag event's, at several rates.

One worker process on the embedded broker, the default adapter, and listings of several merchants published at an even
pace. The time is that from the listing's event time, set as it is published, to its tag event's timestamp. Beside it
stands the time of the model alone for one listing, in the same worker: no stream processor around it can be faster.
"""

import asyncio
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from adapters_stream import CODEC, Scene, Traffic, spread
from report import Neighbours, describe, machine, print_json, show

from streamer import topics
from streamer.broker import EmbeddedBroker, free_port
from streamer.connection import Reader
from streamer.publish import Pace, Publisher
from streamer.settings import Settings

WARM = 20  # listings, one by one


async def latencies(settings: Settings, traffic: Traffic, count: int, rate: float | None) -> list[float]:
    """Milliseconds from record to tag event, published at a rate, or None: each when the one before has its tags."""
    published: dict[str, int] = {}
    taken: list[float] = []
    tagged = asyncio.Event()

    async def read(reader: Reader) -> None:
        async for record in reader:
            event = CODEC.decode_tags(record.value or b"")
            taken.append(record.timestamp - published[event.product_id])
            tagged.set()
            if len(taken) == count:
                return

    async with (
        Reader(settings, [settings.tags_topic], from_beginning=False) as reader,
        Publisher(settings, settings.source_topics[0]) as publisher,
    ):
        reading = asyncio.create_task(read(reader))
        pace = Pace(rate)
        for number in range(count):
            await pace.wait()
            listing = replace(next(traffic), event_time=round(time.time() * 1000))
            published[listing.product_id] = listing.event_time
            tagged.clear()
            await publisher.send(listing)
            if rate is None and len(taken) <= number:
                await tagged.wait()
        await reading
    return taken


async def measure(rates: list[float], seconds: float, threads: int) -> dict[str, Any]:
    """The model's time for one listing, and latencies at each rate."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker(log=Path(folder, "broker.log")) as broker:
        settings = Settings(
            kafka_bootstrap=broker.bootstrap,
            idempotent_producer=False,
            fetch_max_wait_ms=20,  # the embedded broker answers an empty fetch after half of it, whatever comes
            torch_threads=threads,
            web_port=free_port(),
        )
        await topics.ensure(topics.wanted(settings), bootstrap_servers=broker.bootstrap)
        scene, traffic = Scene(settings, Path(folder)), Traffic([f"merchant-{number}" for number in range(10)])
        async with scene.worker():
            alone = await latencies(settings, traffic, WARM, None)
            model_ms = statistics.median(line["model_ms"] for line in scene.logged("batch"))
            measured = []
            for rate in rates:
                before = len(scene.logged("batch"))
                taken = await latencies(settings, traffic, round(rate * seconds), rate)
                sizes = [line["tagged"] for line in scene.logged("batch")[before:]]
                measured.append({"rate": rate, **spread(taken), "mean_batch": statistics.mean(sizes)})
        return {"model_ms": model_ms, "alone_ms": statistics.median(alone), "rates": measured}


def main(
    rates: Annotated[str, typer.Option(help="Listings a second, separated by commas.")] = "5,10,15,20",
    seconds: Annotated[float, typer.Option(help="Of each rate.")] = 20.0,
    threads: Annotated[int, typer.Option(help="Of torch, in the worker.")] = 1,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Publish at each rate and time the tags."""
    neighbours = Neighbours()
    content = asyncio.run(measure([float(rate) for rate in rates.split(",")], seconds, threads))
    content["machine"] = machine(neighbours)
    if as_json:
        print_json(content)
        return
    rows = [
        (f"{one['rate']:g}", *(f"{one[name]:.0f}" for name in ("median", "p99", "highest")), f"{one['mean_batch']:.1f}")
        for one in content["rates"]
    ]
    notes = {
        "the model alone, one listing, ms": f"{content['model_ms']:.0f}",
        "one listing at a time, ms": f"{content['alone_ms']:.0f}",
        "machine": describe(content["machine"]),
    }
    columns = ("listings/s", "median ms", "p99 ms", "highest ms", "listings a batch")
    show("From a listing's record to its tag event", columns, rows, notes)


if __name__ == "__main__":
    typer.run(main)
